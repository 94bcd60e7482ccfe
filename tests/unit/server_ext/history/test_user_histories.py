"""The cache of users' pasts: as new as the store, bounded, and empty of whom was erased."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recserve_server_ext.common.units import DAY_S
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.config.interactions import InteractionLimits
from recserve_server_ext.history.recorded_history import RecordedHistory, find_rows
from recserve_server_ext.history.user_histories import UserHistories
from recserve_server_ext.index.item_ids import RowTable
from recserve_server_ext.interactions import changes as store_changes
from recserve_server_ext.interactions.store import InteractionStore
from support.answers import by_user, log_of
from support.events import ANN, BOB, NOW, PSEUDONYMS, event

#: Something done to a store.
Change = Callable[[InteractionStore], object]
OTHERS = [PSEUDONYMS.of(f"other{n}") for n in range(30)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[InteractionStore]:
    with InteractionStore(tmp_path / "store.db", create=True, clock=lambda: NOW) as store:
        yield store


@pytest.fixture
def anywhere(store_place: Path | str) -> Iterator[InteractionStore]:
    """On SQLite, and on PostgreSQL where there is one."""
    with InteractionStore(store_place, create=True, clock=lambda: NOW) as store:
        yield store


def test_what_is_cache_of_a_user_is_as_new_as_the_store(anywhere: InteractionStore, store_place: Path | str) -> None:
    histories = UserHistories(lambda: anywhere, HistoryRules())
    # As another process would.
    with InteractionStore(store_place, InteractionLimits(), clock=lambda: NOW) as other:
        other.record([event(item="i1"), event(BOB, item="i2")])
        first = histories.read([ANN, BOB])
        assert histories.read([ANN, BOB])[ANN] is first[ANN]
        other.record([event(BOB, item="i3", timestamp=NOW - 9000)])
        # Bob is not asked for at the new mark: that must not make his old past count as new.
        assert histories.read([ANN])[ANN] is first[ANN]
        assert histories.read([BOB])[BOB].subjects == ["i2", "i3"]
        other.erase(ANN)
        other.record([event(item="i4", timestamp=NOW + 1)])
        assert histories.read([ANN])[ANN].subjects == ["i4"]
        other.erase(BOB)
        histories.forget_erased()
        assert not histories._cache


def test_after_a_commit_only_the_users_of_its_interactions_are_looked_up(
    anywhere: InteractionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def change_numbers(connection: sa.Connection, pseudonyms: Collection[str]) -> dict[str, store_changes.Change]:
        asked.append(list(pseudonyms))
        return {name: found for name, found in numbers(connection, pseudonyms).items() if pseudonyms}

    numbers = store_changes.change_numbers
    monkeypatch.setattr(store_changes, "change_numbers", change_numbers)
    histories = UserHistories(lambda: anywhere, HistoryRules())
    anywhere.record([event(item="i1"), event(BOB, item="i2")])
    first = histories.read([ANN, BOB])
    anywhere.record([event(BOB, item="i3"), event(BOB, item="i4"), event(OTHERS[0], item="i1")])
    assert histories.read([ANN, BOB])[ANN] is first[ANN]
    anywhere.record([event(OTHERS[0], item="i5")])
    anywhere.record([event(OTHERS[1], item="i5")])
    # Of several commits one may have removed something of anybody.
    assert histories.read([ANN])[ANN] is first[ANN]
    anywhere.record([event(OTHERS[0], item="i6")])
    histories.read([ANN])
    assert asked == [[ANN, BOB], [BOB], [ANN], []]


def recorded(rows: list[tuple[str, int, int]]) -> Change:
    """Records likes of items some days ago, by user."""
    return lambda store: store.record(
        [event(user, item=f"i{item}", timestamp=NOW - days * DAY_S) for user, item, days in rows]
    )


def expired(days: int) -> Change:
    """Removes what is past the limits so many days later."""
    return lambda store: store.expire(NOW + days * DAY_S)


def erased(user: str) -> Change:
    """Erases a user."""
    return lambda store: store.erase(user)


interactions = st.tuples(st.sampled_from(OTHERS[:3]), st.integers(0, 6), st.integers(0, 40))
changes = st.one_of(
    st.lists(interactions, min_size=1, max_size=3).map(recorded),
    st.integers(0, 40).map(expired),
    st.sampled_from(OTHERS[:3]).map(erased),
)


@settings(deadline=None, max_examples=100)
@given(steps=st.lists(st.lists(changes, max_size=3), max_size=6))
@example(steps=[[recorded([(OTHERS[0], 1, 29), (OTHERS[1], 1, 0)])], [expired(5), recorded([(OTHERS[1], 2, 0)])]])
def test_what_is_cached_is_what_is_read_anew_whatever_was_committed(
    steps: list[list[Change]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    limits = InteractionLimits(per_user=3, slack=1, seen_per_user=4, max_age_s=30 * DAY_S, seen_max_age_s=35 * DAY_S)
    place, rules = tmp_path_factory.mktemp("store") / "store.db", HistoryRules()
    with InteractionStore(place, limits, create=True, clock=lambda: NOW) as store:
        histories = UserHistories(lambda: store, rules)
        for step in steps:
            for change in step:
                change(store)
            new = UserHistories(lambda: store, rules).read(OTHERS[:3])
            for user, history in histories.read(OTHERS[:3]).items():
                assert (history.subjects, history.seen) == (new[user].subjects, new[user].seen)
                assert history.time_us.tolist() == new[user].time_us.tolist()


def test_of_the_pasts_those_least_recently_asked_for_go_first(store: InteractionStore) -> None:
    histories = UserHistories(lambda: store, HistoryRules(), max_cached=5)
    for user in OTHERS[:4]:
        store.record([event(user, item="i1"), event(user, item="i2")])
        histories.read([user])
        histories.read([OTHERS[0]])
    assert set(histories._cache) == {OTHERS[0], OTHERS[3]}
    assert histories._cache.currsize == 4
    past = histories.read(OTHERS[:4])
    assert all(np.sort(past[user].subjects).tolist() == ["i1", "i2"] for user in OTHERS[:4])


def test_a_past_larger_than_what_is_cache_is_read_every_time(store: InteractionStore) -> None:
    histories = UserHistories(lambda: store, HistoryRules(), max_cached=5)
    store.record([event(item=f"i{n}") for n in range(5)])
    assert histories.read([ANN])[ANN] is histories.read([ANN])[ANN]
    store.record([event(item="i5")])
    for _ in range(2):
        assert len(histories.read([ANN])[ANN].subjects) == 6
        assert not histories._cache


def test_users_of_whom_only_answers_are_held_are_bounded_too(store: InteractionStore) -> None:
    histories = UserHistories(lambda: store, HistoryRules(), max_cached=3)
    log = log_of(store)
    for number, user in enumerate(OTHERS[:5]):
        log.offer(by_user(f"r{number}"), user, PSEUDONYMS.fingerprint)
    log.close()
    assert all(past.size == 0 for past in histories.read(OTHERS[:5]).values())
    assert set(histories._cache) == set(OTHERS[2:5])


@dataclass(frozen=True)
class RowsOnly:
    """A row lookup with nothing but ids."""

    row_of: RowTable


behaviours = st.lists(st.tuples(st.sampled_from([f"i{n}" for n in range(12)]), st.booleans()), max_size=8)
seen_items = st.lists(st.sampled_from([f"i{n}" for n in range(12)]), max_size=8)


@given(users=st.lists(st.tuples(behaviours, seen_items), max_size=5), known=st.integers(1, 12))
def test_rows_of_many_histories_are_those_of_each(
    users: list[tuple[list[tuple[str, bool]], list[str]]], known: int
) -> None:
    row_of = RowTable.of([f"i{n}" for n in range(known)])
    view = RowsOnly(row_of)
    histories = []
    for of_user, seen in users:
        names, are_items = [name for name, _ in of_user], np.array([is_item for _, is_item in of_user], np.bool_)
        zeros = np.zeros(len(names))
        histories.append(RecordedHistory(names, are_items, zeros, zeros, zeros, zeros.astype(np.int64), seen))
    find_rows(histories, view)
    for history, (of_user, seen) in zip(histories, users, strict=True):
        expected = [row_of.get(name, -1) if is_item else -1 for name, is_item in of_user]
        rows, every = history.rows_in(view)
        assert rows.tolist() == expected
        assert every.tolist() == sorted({*expected, *(row_of.get(name, -1) for name in seen)} - {-1})
