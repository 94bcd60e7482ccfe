"""The interaction store, on SQLite and on a real PostgreSQL: what is acknowledged is there once, and bounded."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from recserve_server_ext.common.errors import InteractionError
from recserve_server_ext.interactions import tables as interaction_tables
from recserve_server_ext.interactions.interaction import Interaction, Recorded, Refused
from recserve_server_ext.interactions.pseudonyms import Pseudonyms
from recserve_server_ext.interactions.store import InteractionStore
from support.answers import by_user, log_of
from support.events import ANN, BOB, NOW, Opener, event, held, statuses
from support.lock import locked
from support.queued import arrived

FULL = event(
    value=4.5,
    event_id="e-1",
    recommendation_id="r-1",
    duration_s=12.25,
    price=9.99,
    quantity=2,
    session_id="s-1",
    context={"device": "phone", "slot": 3, "share": 0.5, "is_member": True},
    timestamp=NOW - 0.000001,
)


def test_the_migrations_make_the_tables_and_end_at_the_head(store: InteractionStore) -> None:
    with store.database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "interactions_version"})
        assert compare_metadata(context, interaction_tables.metadata) == []
        assert context.get_current_revision() == interaction_tables.SCHEMA.head


def test_what_was_recorded_comes_back(store: InteractionStore) -> None:
    assert store.record([FULL, event(item=None, text="space opera", type="search")]) == [
        Recorded("recorded", "e-1"),
        Recorded("recorded", held(store)[1]["event_id"]),
    ]
    first, second = held(store)
    assert first == {name: getattr(FULL, name) for name in FULL.__struct_fields__ if name != "text"}
    assert (second["text"], "item" in second, second["timestamp"]) == ("space opera", False, NOW - 60)


def test_a_replay_counts_once(store: InteractionStore, opened: Opener) -> None:
    batch = [FULL, event(), event(timestamp=NOW - 61)]
    assert statuses(store.record(batch)) == ["recorded"] * 3
    revision = store.revision
    assert statuses(store.record(batch)) == ["duplicate"] * 3
    assert statuses(opened().record(batch)) == ["duplicate"] * 3
    assert statuses(store.record([event(item="other", event_id="e-1")])) == ["duplicate"]
    assert (len(held(store)), store.revision) == (3, revision)


def test_an_id_tells_the_interactions_of_one_user_apart_and_not_those_of_two(store: InteractionStore) -> None:
    given = event(BOB, event_id="e-1")
    assert statuses(store.record([FULL, event(), given, event(BOB)])) == ["recorded"] * 4
    assert statuses(store.record([given, event(BOB), event(ANN, event_id="e-1")])) == ["duplicate"] * 3
    (made,) = (row["event_id"] for row in held(store, BOB) if row["event_id"] != "e-1")
    assert statuses(store.record([event(BOB, event_id=made)])) == ["duplicate"]
    assert (len(held(store)), len(held(store, BOB))) == (2, 2)


def test_the_same_interaction_twice_in_one_batch_counts_once(store: InteractionStore) -> None:
    assert statuses(store.record([event(), event(), event(value=-0.0), event(value=0.0)])) == [
        "recorded",
        "duplicate",
        "recorded",
        "duplicate",
    ]


def test_an_id_made_from_the_content_is_the_one_documented(store: InteractionStore) -> None:
    import hashlib

    written = event(quantity=2, context={"b": 1, "a": "é"}, timestamp=1_700_000_000.25)
    (answer,) = store.record([written])
    canonical = '{"context":{"a":"é","b":1},"item":"i1","quantity":2.0,"time_us":1700000000250000,"type":"view"}'
    assert answer.event_id == hashlib.sha256(canonical.encode()).hexdigest()


CONTEXTS: list[Any] = [{"a": None}, {"a": []}, {"": 1}, {"a": math.nan}, {"a": 2**63}, {"a": "x" * 257}, {"a": "\0"}]
CONTEXTS += ["text", {1: 1}]
BAD: list[tuple[Any, Refused]] = [
    (event(user="ann"), Refused.USER),
    (event(user=ANN.upper()), Refused.USER),
    *((event(type=kind), Refused.TYPE) for kind in ("", "View", "a b", "x" * 33, 3, None)),
    (event(item=None), Refused.SUBJECT),
    (event(text=" \n"), Refused.SUBJECT),
    (event(item=""), Refused.SUBJECT),
    (event(item="x" * 513), Refused.SUBJECT),
    (event(item="a\0b"), Refused.SUBJECT),
    (event(item="\ud800"), Refused.SUBJECT),
    (event(item=None, text=" \n"), Refused.SUBJECT),
    (event(item=None, text="é" * 20_000), Refused.SUBJECT),
    *((event(timestamp=at), Refused.TIMESTAMP) for at in (-1.0, math.nan, -math.inf, "now", True, None)),
    *((event(timestamp=at), Refused.FUTURE) for at in (1e300, math.inf, 10**400, NOW + 300.1)),
    *((event(value=value), Refused.NUMBER) for value in (math.nan, math.inf, 1e13, 10**400, "4", True)),
    (event(price=-1), Refused.NUMBER),
    (event(quantity=-0.5), Refused.NUMBER),
    (event(duration_s=-1), Refused.NUMBER),
    (event(event_id=""), Refused.ID),
    (event(session_id=""), Refused.ID),
    (event(recommendation_id="\0"), Refused.ID),
    (event(event_id="x" * 129), Refused.ID),
    (event(context={str(number): 1 for number in range(17)}), Refused.CONTEXT),
    *((event(context=context), Refused.CONTEXT) for context in CONTEXTS),
]


@pytest.mark.parametrize(("bad", "reason"), BAD)
def test_a_bad_interaction_is_refused_alone(store: InteractionStore, bad: Interaction, reason: Refused) -> None:
    answers = store.record([event(item="before"), bad, event(item="after")])
    assert statuses(answers) == ["recorded", reason.value, "recorded"]
    assert answers[1].detail
    assert ANN not in answers[1].detail
    assert [row["item"] for row in held(store)] == ["before", "after"]


def test_timestamps_may_be_a_little_ahead_and_in_any_order(store: InteractionStore) -> None:
    times = [NOW + 300, 0.0, NOW - 5, 86_400.5]
    assert statuses(store.record([event(timestamp=at) for at in times])) == ["recorded"] * 4
    found = store.window([ANN]).time_us / 1e6
    assert found.tolist() == sorted(times, reverse=True)


def test_the_revision_and_the_mark_tell_readers_of_a_change(store: InteractionStore, opened: Opener) -> None:
    reader = opened()
    mark, revision = reader.mark(), reader.revision
    assert (reader.mark(), reader.revision) == (mark, revision)
    store.record([event()])
    assert (reader.mark() != mark, reader.revision) == (True, revision + 1)
    assert reader.identity == store.identity


def test_every_change_to_what_is_known_of_users_changes_the_mark_and_no_logged_answer_does(
    opened: Opener,
) -> None:
    store, reader = opened(max_age_s=100), opened()
    store.record([event(timestamp=NOW - 10), event(BOB, item="i2")])
    mark = reader.mark()
    log = log_of(store)
    log.offer(by_user("r1"), ANN)
    log.close()
    assert (store.stats().answers, reader.mark()) == (1, mark)
    store.record([event(timestamp=NOW - 10)])  # a duplicate
    assert reader.mark() == mark
    marks = [mark]
    changes: list[Callable[[], object]] = [
        lambda: store.record([event(item="i3")]),
        lambda: store.erase(BOB),
        lambda: store.expire(NOW + 95),
    ]
    for change in changes:
        change()
        marks.append(reader.mark())
    assert len(set(marks)) == len(marks)


def test_everything_held_of_a_user_is_json(store: InteractionStore) -> None:
    store.record([FULL, event(BOB)])
    exported = store.export(ANN)
    assert json.loads(json.dumps(exported)) == exported
    assert exported["seen"] == [{"item": "i1", "kind": "seen", "timestamp": FULL.timestamp}]


def test_the_store_in_numbers(store: InteractionStore) -> None:
    assert (store.stats().interactions, store.stats().oldest) == (0, None)
    store.record([event(), event(item="i2"), event(BOB, type="click", timestamp=NOW - 1)])
    found = store.stats()
    assert (found.users, found.interactions, found.items, found.seen) == (2, 3, 2, 3)
    assert (found.types, found.oldest, found.newest) == ({"view": 2, "click": 1}, NOW - 60, NOW - 1)


def test_calls_that_come_together_share_transactions(store: InteractionStore) -> None:
    before = store.revision
    with ThreadPoolExecutor(8) as pool:
        with store.database.writing():  # the first call waits for this, and the others gather behind it
            calls = [pool.submit(store.record, [event(item=f"i{n}"), event(user="bad")]) for n in range(8)]
            arrived(store._commit, 7)
        answers = [call.result(60) for call in calls]
    assert [statuses(answer) for answer in answers] == [["recorded", "invalid_user"]] * 8
    assert (len(held(store)), store.revision) == (8, before + 2)


def test_what_is_asked_for_is_bounded(opened: Opener) -> None:
    store = opened(batch=2)
    with pytest.raises(InteractionError, match="batch of 3"):
        store.record([event()] * 3)
    with pytest.raises(InteractionError, match="5,001 users"):
        store.window([ANN] * 5001)
    with pytest.raises(InteractionError, match="twice"):
        store.window([ANN, ANN])
    with pytest.raises(InteractionError, match="limit"):
        store.window([ANN], 0)
    assert store.record([]) == []


def test_a_store_locked_by_another_process_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    monkeypatch.setattr("recserve_server_ext.storage.database.WAIT_S", 0.0)
    path = tmp_path / "interactions.db"
    with InteractionStore(path, create=True, clock=lambda: NOW) as store:
        blocker = sqlite3.connect(path)
        blocker.execute("BEGIN IMMEDIATE")
        try:
            with pytest.raises(InteractionError, match="database is locked; another process is writing"):
                store.record([event()])
        finally:
            blocker.close()
        assert statuses(store.record([event()])) == ["recorded"]


def test_another_key_is_another_user(store: InteractionStore) -> None:
    store.record([event()])
    assert held(store, Pseudonyms(b"other key" * 4).of("ann")) == []


def test_a_store_locked_by_another_process_says_so_and_then_takes_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recserve_server_ext.storage.database.WAIT_S", 0.1)
    path = tmp_path / "i.db"
    with InteractionStore(path, create=True) as store:
        with locked(path):
            with pytest.raises(InteractionError, match="another process is writing to it, try again"):
                store.record([event(event_id="e", timestamp=1)])
            assert store.export(ANN)["interactions"] == []  # readers are not kept out
        assert [answer.status for answer in store.record([event(event_id="e", timestamp=1)])] == ["recorded"]
