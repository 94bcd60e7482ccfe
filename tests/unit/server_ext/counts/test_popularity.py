"""What is popular within several windows, and mixed: against a plain count, and the rule in its limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recserve_server_ext.common.arrays import Floats
from recserve_server_ext.counts.popularity import (
    BACK_OFF,
    WINDOWS,
    PopularWindow,
    count_popularity,
    no_popularity,
    smoothed_shares,
    unchanged_until,
)

_NAMES = ["a", "b", "c", "d"]
_EVENT = st.tuples(st.integers(0, 5), st.integers(0, 3), st.floats(0, 60 * 86_400.0))


@given(st.lists(_EVENT, min_size=1, max_size=40))
def test_users_and_heat_of_every_window_are_a_plain_count(rows: list[tuple[int, int, float]]) -> None:
    user, item, ages = (np.array(column) for column in zip(*rows, strict=True))
    age_us = np.rint(ages * 1e6).astype(np.int64)
    found = count_popularity(user, item, age_us, _NAMES, np.arange(4), 86_400.0, 0)
    assert sorted(found.items) == sorted({_NAMES[place] for place in item})
    for place, length_s in enumerate(WINDOWS.values()):
        inside = [(u, i, age) for u, i, age in zip(user, item, age_us, strict=True) if age <= length_s * 1e6]
        assert found.active[place] == len({u for u, _, _ in inside})
        for row, name in enumerate(found.items):
            own = [(u, age) for u, i, age in inside if _NAMES[i] == name]
            assert found.users[row, place] == len({u for u, _ in own})
            assert found.recent[row, place] == pytest.approx(sum(0.5 ** (age / 86_400e6) for _, age in own))


@given(st.lists(_EVENT, min_size=1, max_size=10))
def test_a_quiet_log_is_counted_the_same_until_an_interaction_leaves_a_window(
    rows: list[tuple[int, int, float]],
) -> None:
    user, item, ages = (np.array(column) for column in zip(*rows, strict=True))
    now_us = 10**15
    time_us = now_us - np.rint(ages * 1e6).astype(np.int64)

    def counted(at_us: int) -> list[list[int]]:
        age_us = at_us - time_us
        found = count_popularity(user, item, age_us, _NAMES, np.arange(4), 86_400.0, int(age_us.min()))
        return [found.users.tolist(), found.recent.tolist(), found.active.tolist()]

    until_us = unchanged_until(time_us, now_us)
    assert until_us > now_us
    if until_us < now_us + 10**14:
        assert counted(until_us - 1) == counted(now_us) != counted(until_us)
    else:
        assert counted(now_us + 10**14) == counted(now_us)
    assert unchanged_until(np.append(time_us, now_us + 1), now_us) == now_us


def test_a_window_counts_as_far_as_it_has_users() -> None:
    # Item 0 has all users of the last day, item 1 nearly all of the others.
    def shares(today: int) -> Floats:
        return smoothed_shares(
            np.array([[today, today, today, today], [0, 0, 0, 900]]), np.array([today, today, today, 1000])
        )

    quiet, busy = shares(1), shares(10_000)
    assert quiet[1] > quiet[0]
    assert busy[0] > 0.99 > busy[1]
    # With as many users as the prior a window has half of the say.
    half = smoothed_shares(np.array([[0, 40]]), np.array([int(BACK_OFF), 100]))
    assert half[0] == pytest.approx(0.5 * 0.4)
    # Where all windows agree, so does the mixture.
    assert smoothed_shares(np.array([[1, 2, 4, 8]]), np.array([10, 20, 40, 80]))[0] == pytest.approx(0.1)


@pytest.mark.parametrize("window", [*WINDOWS, "mixed"])
def test_reasons_name_the_window(window: PopularWindow) -> None:
    day_us = 86_400 * 10**6
    user, item = np.array([1, 2, 3, 3]), np.array([0, 0, 1, 0])
    found = count_popularity(user, item, np.array([0, 3, 40, 10]) * day_us, _NAMES, np.arange(4), 1e6, 0)
    reasons = {name: list(reason) for name, *reason in zip(found.items, *found.facts(window), strict=True)}
    expected = {
        "day": {"a": [1, 86_400.0], "b": [0, 86_400.0]},
        "week": {"a": [2, 604_800.0], "b": [0, 604_800.0]},
        "month": {"a": [3, 2_592_000.0], "b": [0, 2_592_000.0]},
        "all": {"a": [3, None], "b": [1, None]},
        "mixed": {"a": [1, 86_400.0], "b": [1, None]},
    }
    assert reasons == expected[window]


def test_an_empty_log_has_no_ranking() -> None:
    nothing = np.empty(0, np.int64)
    found = count_popularity(nothing, nothing, nothing, [], nothing, 1.0, 0)
    assert found.items == no_popularity().items == []
    assert found.shares().tolist() == found.recent_in("day").tolist() == []
