"""Item-to-item counts against their definition, and what a history makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from recserve_server_ext.config.counts import CountSettings
from recserve_server_ext.counts import neighbours
from recserve_server_ext.counts.counts import MIN_USERS, LogColumns, counts_of
from recserve_server_ext.counts.neighbours import neighbours_of
from recserve_server_ext.strategies.parts.sparse import SparseVector
from support.examples import examples


def similarities(histories: list[list[int]], items: int, shrink: float) -> NDArray[np.float64]:
    """[items, items] s(i, j) = c_ij / (sqrt(c_i c_j) + shrink), c = users of both, 0 on the diagonal."""
    users = [[history.count(item) > 0 for history in histories] for item in range(items)]
    has = np.array(users, np.float64)
    both, own = has @ has.T, np.sqrt(has.sum(axis=1))
    similar: NDArray[np.float64] = both / np.maximum(np.outer(own, own) + shrink, 1e-9)
    np.fill_diagonal(similar, 0.0)
    return similar


LOGS = st.lists(st.lists(st.integers(0, 11), max_size=12), min_size=1, max_size=8)


@examples(60)
@given(
    histories=LOGS,
    shrink=st.sampled_from([0.0, 3.0]),
    most=st.integers(1, 14),
    at_once=st.sampled_from([1, 7, 1 << 20]),
)
def test_equals_the_similarities_by_definition(
    histories: list[list[int]], shrink: float, most: int, at_once: int
) -> None:
    user = np.array([n for n, items in enumerate(histories) for _ in items], np.int64)
    item = np.array([found for items in histories for found in items], np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "_MAX_PAIRS", at_once)
        found = neighbours_of(user, item, 12, shrink=shrink, most=most)
    expected = similarities(histories, 12, shrink)
    dense = np.zeros((12, 12))
    rows, columns = np.nonzero(found.nearest >= 0)
    dense[rows, found.nearest[rows, columns]] = found.similarity[rows, columns]
    kept = (dense > 0).sum(axis=1)
    assert kept.tolist() == np.minimum((expected > 0).sum(axis=1), most).tolist()
    for one in range(12):
        best = np.sort(expected[one])[::-1][: kept[one]]
        assert found.similarity[one, : kept[one]] == pytest.approx(best, abs=1e-6)
        chosen = found.nearest[one, : kept[one]]
        assert dense[one, chosen] == pytest.approx(expected[one, chosen], abs=1e-6)


_START = 20_000  # days: times of the first year would be no times


def log_of(rows: list[tuple[int, str, float, str | None]]) -> LogColumns:
    """User, item, time in days, device."""
    items = list(dict.fromkeys(row[1] for row in rows))
    return LogColumns(
        np.array([row[0] for row in rows]), np.array([items.index(row[1]) for row in rows]),
        np.array([(row[2] + _START) * 86_400e6 for row in rows], np.int64), items, {"device": [row[3] for row in rows]},
    )  # fmt: skip


def test_windows_and_a_context_decide_what_is_popular() -> None:
    rows: list[tuple[int, str, float, str | None]] = [(n, "old", 0.0, None) for n in range(40)]
    rows += [(n, "tv", 20.0, "tv") for n in range(MIN_USERS)] + [
        (n, "phone", 25.0, "phone") for n in range(MIN_USERS - 1)
    ]
    rows += [(99, "phone", 39.5, "tv"), (98, "tv", 40.0, None), (98, "tv", 40.0, None)]
    counts = counts_of(log_of(rows), round((_START + 40) * 86_400e6), CountSettings(recent_half_life_s=10 * 86_400.0))
    everybody = counts.overall
    users = dict(zip(everybody.items, everybody.users.tolist(), strict=True))
    # Within a day, a week, 30 days, and at all.
    assert users == {
        "old": [0, 0, 0, 40],
        "tv": [1, 1, MIN_USERS + 1, MIN_USERS + 1],
        "phone": [1, 1, MIN_USERS, MIN_USERS],
    }
    assert everybody.active.tolist() == [2, 2, MIN_USERS + 2, 42]
    place = everybody.items.index("tv")
    assert everybody.recent[place] == pytest.approx([2, 2, MIN_USERS * 0.25 + 2, MIN_USERS * 0.25 + 2])
    assert everybody.shares("month")[place] == (MIN_USERS + 1) / (MIN_USERS + 2)
    assert everybody.shares("all")[everybody.items.index("old")] == 40 / 42
    of_tv = counts.popularity_in({"device": "tv", "unknown": "x"})
    assert dict(zip(of_tv.items, of_tv.users[:, -1].tolist(), strict=True)) == {"tv": MIN_USERS, "phone": 1}
    # Too few users are no ranking of their own.
    assert counts.popularity_in({"device": "phone"}) is counts.overall


def test_sparse_values_and_the_best_of_them() -> None:
    found = SparseVector(np.array([2, 5, 9]), np.array([1.0, 3.0, 2.0]))
    assert found.at(np.array([9, 0, 5, 7])).tolist() == [2.0, 0.0, 3.0, 0.0]
    usable = np.ones(10, np.bool_)
    usable[5] = False
    assert found.best(5, usable).tolist() == [9, 2]
