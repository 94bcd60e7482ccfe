"""When the log is counted: on SQLite and PostgreSQL, what is wanted, and only what changed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recserve_server_ext.config.counts import CountSettings
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.counts import counter as log_counter
from recserve_server_ext.counts import reader as log_reader
from recserve_server_ext.counts.counter import LogCounter
from recserve_server_ext.counts.counts import LogColumns
from recserve_server_ext.counts.reader import LogReader
from recserve_server_ext.interactions import changes
from recserve_server_ext.interactions import reads as interaction_reads
from recserve_server_ext.interactions.store import InteractionStore
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
        self.reads = 0
        self.now = NOW
        self.counter = LogCounter(lambda: store, HistoryRules(), CountSettings(every_s=every_s), clock=lambda: self.now)
        patch.setattr(self.counter, "_reader", self)
        self._reader = LogReader(["click", "view"])

    def read(self, store: InteractionStore) -> LogColumns:
        """In the place of the counter's reader."""
        self.reads += 1
        return self._reader.read(store)

    def ask(self, *, full: bool = False) -> None:
        """Ask, and wait for the count that this starts, if it does."""
        self.counter.counts(full=full)
        if self.counter._thread is not None:
            self.counter._thread.join()


def test_what_did_not_change_is_not_counted_again(store: InteractionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(store, monkeypatch, 1e9)
    counter = watched.counter
    assert counter.counted_at() == 0
    counter.count(full=False)
    assert counter.counted_at() == NOW
    first = counter.counts()
    assert (watched.reads, first.items) == (1, [])
    counter.count()
    paired = counter.counts()
    assert (watched.reads, sorted(paired.items)) == (2, ["i1", "i2"])
    counter.count()
    counter.count(full=False)
    assert watched.reads == 2
    log = log_of(store)
    log.offer(by_user("r1", ["i1"]), ANN)
    log.close()
    counter.count()
    again = counter.counts()
    # Answers change the clicks alone.
    assert (watched.reads, again.clicks.items, again.neighbours is paired.neighbours) == (2, ["i1"], True)
    store.record([event(item="i3")])
    counter.count(full=False)
    later = counter.counts()
    assert (watched.reads, later.neighbours is paired.neighbours, later.items) == (3, True, paired.items)
    assert sorted(later.overall.items) == ["i1", "i2", "i3"]
    counter.count()
    assert sorted(counter.counts().items) == ["i1", "i2", "i3"]


def test_what_leaves_a_window_is_counted_again(store: InteractionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(store, monkeypatch, 1e9)
    for now, read, of_day in ((NOW, 1, 2), (NOW - 10 + _DAY_S, 1, 2), (NOW - 9 + _DAY_S, 2, 0)):
        watched.now = now
        watched.counter.count()
        assert (watched.reads, watched.counter.counts().overall.active[0]) == (read, of_day)


def test_a_clock_that_was_wrong_for_a_while_leaves_nothing_behind(
    store: InteractionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(store, monkeypatch, 1e9)
    for now, read, of_day in (
        (NOW + 5 * _DAY_S, 1, 0),
        (NOW, 2, 2),
        (NOW, 2, 2),
        (NOW - 5 * _DAY_S, 3, 2),
        (NOW, 4, 2),
    ):
        watched.now = now
        watched.counter.count()
        assert (watched.reads, watched.counter.counts().overall.active[0]) == (read, of_day)


def test_pairs_are_counted_when_they_are_wanted(store: InteractionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(store, monkeypatch, 1e9)
    watched.ask()
    watched.ask()
    assert watched.counter.counts().items == []
    watched.ask(full=True)
    assert sorted(watched.counter.counts().items) == ["i1", "i2"]
    monkeypatch.setattr(log_counter, "_PAUSE", 0)
    often = Watched(store, monkeypatch, 0.0)
    for number in range(3):
        store.record([event(item=f"new{number}")])
        often.ask(full=number == 1)
        found = often.counter._counts  # asking would start another count
        assert f"new{number}" in found.overall.items
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
    watched.counter.count(full=False)
    found = watched.counter.counts()
    assert (sorted(found.items), sorted(found.overall.items), found.clicks.items) == (["i1", "i2"], ["i1", "i2"], [])


def test_the_log_is_read_in_parts(store: InteractionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interaction_reads, "_PART", 2)
    store.record([event(item='an "odd" \\ item', context={"d": "x"}), event(ANN, None, text="jazz")])
    store.record([event(BOB, item="i1", type="dislike"), event(BOB, item="i9", context={"e": "y"})])
    log = LogReader(["click", "view"], ["d", "e"]).read(store)
    assert [log.items[place] for place in log.item] == ["i1", "i2", "i1", "i2", 'an "odd" \\ item', "i9"]
    assert (log.context["d"][-2:], log.context["e"][-2:]) == (["x", None], [None, "y"])
    assert len(np.unique(log.user)) == 2
    monkeypatch.setattr(log_reader, "MAX_INTERACTIONS", 4)
    assert LogReader(["view"]).read(store).items == ['an "odd" \\ item', "i9"]


def columns(log: LogColumns) -> tuple[object, ...]:
    return log.user.tolist(), log.item.tolist(), log.time_us.tolist(), log.items, log.context


def test_what_came_since_is_read_and_the_rest_is_kept(store: InteractionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interaction_reads, "_PART", 3)
    monkeypatch.setattr(log_reader, "MAX_INTERACTIONS", 12)
    asked: list[tuple[int, int]] = []
    item_columns = interaction_reads.item_columns

    def watched(connection: object, first: int, last: int, *rest: Any) -> interaction_reads.Parts:
        asked.append((first, last))
        return item_columns(connection, first, last, *rest)  # type: ignore[arg-type]  # handed on

    draw = random.Random(3)
    now = [0.0]
    kept = LogReader(["view", "click"], ["d"], clock=lambda: now[0])
    for number in range(12):
        store.record(
            [
                event(
                    draw.choice([ANN, BOB]),
                    item=f"x{draw.randrange(6)}",
                    timestamp=NOW - number - part / 10,
                    type=draw.choice(["view", "click", "dislike"]),
                    context={"d": draw.choice("ab")},
                )
                for part in range(draw.randrange(1, 4))
            ]
        )
        with monkeypatch.context() as patch:
            patch.setattr(interaction_reads, "item_columns", watched)
            found = kept.read(store)
        assert columns(found) == columns(LogReader(["view", "click"], ["d"]).read(store))
    assert len(found.items) < 8  # what is no longer among the newest went
    assert all(first == last for (_, last), (first, _) in pairwise(asked) if last < 12)
    # A user who was erased, and an hour: everything anew.
    store.erase(BOB)
    assert columns(kept.read(store)) == columns(LogReader(["view", "click"], ["d"]).read(store))
    with monkeypatch.context() as patch:
        patch.setattr(interaction_reads, "item_columns", watched)
        kept.read(store)
        assert asked[-1][0] == asked[-1][1]
        now[0] = 3600.0
        kept.read(store)
        assert asked[-1][0] < asked[-1][1]


def test_what_was_read_of_an_erased_user_does_not_wait_for_the_next_count(store: InteractionStore) -> None:
    reader = LogReader(["view"])
    reader.read(store)
    with store.database.reading() as connection:
        erasures = changes.erasures(connection)
    reader.forget_erased(erasures)
    assert reader._interactions.size
    reader.forget_erased((erasures[0] + 1, erasures[1]))
    assert not reader._interactions.size
    assert not reader._codes


def test_a_log_that_could_not_be_read_to_its_end_is_read_anew(
    store: InteractionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interaction_reads, "_PART", 2)
    reader = LogReader(["view"])

    def broken(*_: object) -> interaction_reads.Parts:
        yield [[1], [1], ["half"], [0]]
        raise RuntimeError("the connection broke")

    with monkeypatch.context() as patch:
        patch.setattr(interaction_reads, "item_columns", broken)
        with pytest.raises(RuntimeError):
            reader.read(store)
    assert columns(reader.read(store)) == columns(LogReader(["view"]).read(store))
