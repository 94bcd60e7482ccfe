"""When the log is counted: on SQLite and PostgreSQL, what is wanted, and only what changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from recserve_server_ext import interaction_reads, log_counter
from recserve_server_ext.blend_rules import BlendRules
from recserve_server_ext.history_rules import HistoryRules
from recserve_server_ext.interaction_store import InteractionStore
from recserve_server_ext.log_counter import LogCounter, read_log
from recserve_server_ext.log_counts import LogColumns
from support.answers import by_user, log_of
from support.events import ANN, BOB, NOW, event

_DAY_S = 86_400.0


@pytest.fixture
def store(store_place: Path | str) -> Iterator[InteractionStore]:
    with InteractionStore(store_place, create=True, clock=lambda: NOW) as store:
        store.record([event(user, item=item, timestamp=NOW - 10) for user in (ANN, BOB) for item in ("i1", "i2")])
        yield store


class Watched:
    """A counter, how often it read the log, and a clock that can be moved."""

    def __init__(self, store: InteractionStore, patch: pytest.MonkeyPatch, every_s: float) -> None:
        self.read = 0
        self.now = NOW
        patch.setattr(log_counter, "read_log", self._read_log)
        self.counter = LogCounter(lambda: store, HistoryRules(), BlendRules(), every_s=every_s, clock=lambda: self.now)

    def _read_log(self, store: InteractionStore, types: Sequence[str], contexts: Sequence[str]) -> LogColumns:
        self.read += 1
        return read_log(store, types, contexts)

    def ask(self, *, paired: bool = False) -> None:
        """Ask, and wait for the count that this starts, if it does."""
        self.counter.counts(paired=paired)
        if self.counter._counting is not None:
            self.counter._counting.join()


def test_what_did_not_change_is_not_counted_again(store: InteractionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(store, monkeypatch, 1e9)
    counter = watched.counter
    counter.count(paired=False)
    first = counter.counts()
    assert (watched.read, first.items) == (1, [])
    counter.count()
    paired = counter.counts()
    assert (watched.read, sorted(paired.items)) == (2, ["i1", "i2"])
    counter.count()
    counter.count(paired=False)
    assert watched.read == 2
    log = log_of(store)
    log.offer(by_user("r1", ["i1"]), ANN)
    log.close()
    counter.count()
    again = counter.counts()
    # Answers change the clicks alone.
    assert (watched.read, again.clicks.items, again.neighbours is paired.neighbours) == (2, ["i1"], True)
    store.record([event(item="i3")])
    counter.count(paired=False)
    later = counter.counts()
    assert (watched.read, later.neighbours is paired.neighbours, later.items) == (3, True, paired.items)
    assert sorted(later.everybody.items) == ["i1", "i2", "i3"]
    counter.count()
    assert sorted(counter.counts().items) == ["i1", "i2", "i3"]


def test_what_leaves_a_window_is_counted_again(store: InteractionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(store, monkeypatch, 1e9)
    for now, read, of_day in ((NOW, 1, 2), (NOW - 10 + _DAY_S, 1, 2), (NOW - 9 + _DAY_S, 2, 0)):
        watched.now = now
        watched.counter.count()
        assert (watched.read, watched.counter.counts().everybody.active[0]) == (read, of_day)


def test_pairs_are_counted_when_they_are_wanted(store: InteractionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(store, monkeypatch, 1e9)
    watched.ask()
    watched.ask()
    assert watched.counter.counts().items == []
    watched.ask(paired=True)
    assert sorted(watched.counter.counts().items) == ["i1", "i2"]
    monkeypatch.setattr(log_counter, "_PAUSE", 0)
    often = Watched(store, monkeypatch, 0.0)
    for number in range(3):
        store.record([event(item=f"new{number}")])
        often.ask(paired=number == 1)
        found = often.counter._counts  # asking would start another count
        assert f"new{number}" in found.everybody.items
        assert (f"new{number}" in found.items) == (number == 1)


def test_of_an_erased_user_no_pairs_and_clicks_stay(store: InteractionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(store, monkeypatch, 1e9)
    store.record([event(BOB, item="only-bob"), event(BOB, item="bob-too")])
    log = log_of(store, now=NOW - 20)
    log.offer(by_user("r1", ["i1"]), BOB)
    log.close()
    watched.counter.count()
    assert "only-bob" in watched.counter.counts().items
    store.erase(BOB)
    watched.counter.count(paired=False)
    found = watched.counter.counts()
    assert (sorted(found.items), sorted(found.everybody.items), found.clicks.items) == (["i1", "i2"], ["i1", "i2"], [])


def test_the_log_is_read_in_parts(store: InteractionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interaction_reads, "_COLUMNS", 2)
    store.record([event(item='an "odd" \\ item', context={"d": "x"}), event(ANN, None, text="jazz")])
    store.record([event(BOB, item="i1", type="dislike"), event(BOB, item="i9", context={"e": "y"})])
    log = read_log(store, ["click", "view"], ["d", "e"])
    assert [log.items[place] for place in log.item] == ["i1", "i2", "i1", "i2", 'an "odd" \\ item', "i9"]
    assert (log.context["d"][-2:], log.context["e"][-2:]) == (["x", None], [None, "y"])
    assert len(np.unique(log.user)) == 2
    monkeypatch.setattr(log_counter, "COUNTED", 4)
    assert read_log(store, ["view"]).items == ['an "odd" \\ item', "i9"]
