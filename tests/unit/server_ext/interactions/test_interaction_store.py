"""The interaction store, on SQLite and on a real PostgreSQL: what is acknowledged is there once, and bounded."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from recserve_server_ext.common.errors import InteractionError
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.config.interactions import InteractionLimits
from recserve_server_ext.history.user_histories import UserHistories
from recserve_server_ext.interactions import tables as interaction_tables
from recserve_server_ext.interactions.interaction import Interaction, Recorded, Refused
from recserve_server_ext.interactions.pseudonyms import Pseudonyms
from recserve_server_ext.interactions.reads import WINDOW_QUERIES, change_numbers
from recserve_server_ext.interactions.store import InteractionStore
from support.answers import by_user, log_of
from support.events import ANN, BOB, NOW, PSEUDONYMS, event
from support.queued import arrived

Opener = Callable[..., InteractionStore]


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    if request.param == "sqlite":
        return tmp_path / "home" / "interactions.db"
    url: str = request.getfixturevalue("postgres").empty()
    return url


@pytest.fixture
def opened(where: Path | str) -> Iterator[Opener]:
    stores: list[InteractionStore] = []

    def open_store(now: float = NOW, **limits: Any) -> InteractionStore:
        stores.append(InteractionStore(where, InteractionLimits(**limits), create=True, clock=lambda: now))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Opener) -> InteractionStore:
    return opened()


def statuses(answers: list[Recorded]) -> list[str]:
    return [answer.status if answer.reason is None else answer.reason.value for answer in answers]


def held(store: InteractionStore, user: str = ANN) -> list[dict[str, Any]]:
    interactions: list[dict[str, Any]] = store.export(user)["interactions"]
    return interactions


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
    (event(text="also"), Refused.SUBJECT),
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


def test_a_window_holds_the_newest_of_each_user(store: InteractionStore) -> None:
    store.record([event(item=f"i{number}", timestamp=NOW - number, value=number) for number in (5, 1, 4, 2, 3)])
    store.record([event(BOB, None, text="jazz", type="search"), event(BOB, duration_s=3.0, price=2, quantity=4)])
    nobody = PSEUDONYMS.of("nobody")
    found = store.window([BOB, nobody, ANN], limit=3)
    assert found.offsets.tolist() == [0, 2, 2, 5]
    assert [found.subjects[code] for code in found.subject] == ["i1", "jazz", "i1", "i2", "i3"]
    assert [bool(found.is_item[code]) for code in found.subject] == [True, False, True, True, True]
    assert [found.types[code] for code in found.type] == ["view", "search", "view", "view", "view"]
    assert found.value[2:].tolist() == [1, 2, 3]
    assert [found.duration_s[0], found.price[0], found.quantity[0]] == [3, 2, 4]
    assert math.isnan(found.value[0])


def test_a_text_and_an_item_of_the_same_name_are_two_subjects(store: InteractionStore) -> None:
    store.record([event(), event(item=None, text="i1")])
    found = store.window([ANN])
    assert (found.subjects, sorted(found.is_item.tolist())) == (["i1", "i1"], [False, True])


#: 100,000 interactions of Ann, a second apart.
MANY = """
INSERT INTO interactions ("user", event_id, time_us, type, item)
WITH RECURSIVE counted(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM counted WHERE n < 99999)
SELECT number, 'made ' || n, CAST(:newest AS BIGINT) - 1000000 * CAST(n AS BIGINT), 'view', 'x'
FROM counted, interaction_users WHERE pseudonym = :ann
"""


def test_a_user_of_whom_all_has_expired_has_an_empty_past(store_place: Path | str) -> None:
    limits = InteractionLimits(max_age_s=100, seen_max_age_s=100)
    with InteractionStore(store_place, limits, create=True, clock=lambda: NOW) as store:
        store.record([event(timestamp=NOW - 50)])
        store.expire(NOW + 1000)
        assert store.window([ANN]).offsets.tolist() == [0, 0]
        assert store.window([BOB, ANN]).offsets.tolist() == [0, 0, 0]
        histories = UserHistories(lambda: store, HistoryRules())
        assert histories.read([ANN])[ANN].size == 0


def test_the_window_of_a_busy_user_is_read_by_the_index_alone(store: InteractionStore) -> None:
    store.record([event(BOB, timestamp=NOW - number) for number in range(500)])
    store.record([event()])
    with store.database.writing() as connection:
        connection.execute(sa.text(MANY), {"newest": round((NOW - 1) * 1e6), "ann": ANN})
        connection.exec_driver_sql("ANALYZE")
    with store.database.reading() as connection:
        numbers = [number for number, _ in change_numbers(connection, [ANN, BOB]).values()]
        query = WINDOW_QUERIES[connection.dialect.name].params(numbers=numbers, most=500)
        compiled = query.compile(connection, compile_kwargs={"literal_binds": True})
        explain = "EXPLAIN QUERY PLAN" if store.database.is_sqlite else "EXPLAIN (ANALYZE, TIMING OFF, FORMAT TEXT)"
        plan = [" ".join(map(str, row)) for row in connection.execute(sa.text(f"{explain} {compiled}"))]
    text = "\n".join(plan)
    if store.database.is_sqlite:
        assert "SEARCH newest USING COVERING INDEX ix_interactions_user_time (user=?)" in text
        # Nothing looks at the rows themselves, and no other index is walked.
        assert text.count("newest") == 1
        assert "SEARCH interactions " not in text
        assert "SCAN interactions " not in text
    else:
        assert re.search("Index (Only )?Scan Backward using ix_interactions_user_time", text)
        assert "Seq Scan on interactions" not in text
        (walked,) = [line for line in plan if "ix_interactions_user_time" in line]
        assert "rows=500 loops=2" in walked or "rows=500.00 loops=2" in walked
    found = store.window([ANN, BOB])
    assert found.offsets.tolist() == [0, 500, 1000]
    assert found.time_us[0] == (NOW - 1) * 1e6


def test_a_window_has_every_field_as_it_was_recorded(store: InteractionStore) -> None:
    numbers = [0.1 + 0.2, -1 / 3, 4e-324, 123456789012.34567]
    given = [
        event(item='with "quotes" \\ and ☃', value=numbers[0], timestamp=NOW - 1),
        event(item=None, text="words, not an item", type="search", timestamp=NOW - 2),
        event(type="rating", value=numbers[1], duration_s=numbers[2], price=numbers[3], timestamp=NOW - 3),
        event(item=None, text='more "words"', type="search", quantity=2.0, timestamp=NOW - 4),
    ]
    store.record([given[2], given[0], given[3], given[1], event(BOB)])
    found = store.window([BOB, ANN])
    assert found.offsets.tolist() == [0, 1, 5]
    own = slice(1, 5)
    assert found.time_us[own].tolist() == [round((NOW - age) * 1e6) for age in (1, 2, 3, 4)]
    assert [found.types[code] for code in found.type[own]] == [row.type for row in given]
    subjects = [(found.subjects[code], bool(found.is_item[code])) for code in found.subject[own]]
    assert subjects == [(row.item or row.text, row.item is not None) for row in given]
    for name in ("value", "duration_s", "price", "quantity"):
        wanted = [getattr(row, name) for row in given]
        assert [None if np.isnan(n) else n for n in getattr(found, name)[own].tolist()] == wanted


def test_between_reads_a_range_of_all_users(store: InteractionStore) -> None:
    store.record([event(user, timestamp=NOW - age) for user in (ANN, BOB) for age in (10, 20, 30)])
    found = store.between(NOW - 30, NOW - 10)
    assert found.offsets.tolist() == [0, 2, 4]
    assert sorted(set(found.time_us.tolist())) == [(NOW - 30) * 1e6, (NOW - 20) * 1e6]


def test_what_a_user_saw_outlives_the_interactions(opened: Opener) -> None:
    store = opened(per_user=2, slack=3)
    kinds = [("old", "view", 50), ("old", "purchase", 40), ("no", "dislike", 30), ("a", "view", 20), ("b", "click", 10)]
    for item, kind, age in kinds:
        store.record([event(item=item, type=kind, timestamp=NOW - age)])
    store.record([event(item="a", timestamp=NOW - 99)])
    store.expire()
    assert [row["item"] for row in held(store)] == ["a", "b"]
    assert store.seen([ANN, BOB]) == {
        ANN: {
            "old": {"seen": NOW - 50, "bought": NOW - 40},
            "no": {"rejected": NOW - 30},
            "a": {"seen": NOW - 20},
            "b": {"seen": NOW - 10},
        },
        BOB: {},
    }


def test_rows_of_one_user_stay_bounded_without_expiry(opened: Opener) -> None:
    store = opened(per_user=10, seen_per_user=5, slack=20)
    for number in range(100):
        store.record([event(item=f"i{number}", timestamp=NOW - 100 + number)])
        assert len(held(store)) <= 10 + 20
        assert len(store.seen([ANN])[ANN]) <= 5 + 20
    assert held(store)[-1]["item"] == "i99"
    store.expire()
    assert [row["item"] for row in held(store)] == [f"i{number}" for number in range(90, 100)]
    assert sorted(store.seen([ANN])[ANN]) == [f"i{number}" for number in range(95, 100)]


def test_expiry_by_age(opened: Opener) -> None:
    store = opened(max_age_s=100, seen_max_age_s=200, tombstone_s=50)
    ages = (50, 150, 250)
    store.record([event(item=f"a{age}", timestamp=NOW - age) for age in ages])
    store.record([event(BOB, timestamp=NOW - 500)])
    store.erase(PSEUDONYMS.of("gone"))
    revision = store.revision
    assert store.expire() == 2 + 1 + 1 + 1
    assert ([row["item"] for row in held(store)], sorted(store.seen([ANN])[ANN])) == (["a50"], ["a150", "a50"])
    assert (store.stats().users, store.stats().erased, store.revision) == (1, 1, revision + 1)
    assert store.expire(NOW + 49) == 0
    assert store.stats().erased == 1
    store.expire(NOW + 51)
    assert store.stats().erased == 0


def test_erasing_a_user_refuses_what_is_older(opened: Opener) -> None:
    store = opened(tombstone_s=1000)
    ahead = event(item="ahead", timestamp=NOW + 100)
    store.record([event(), ahead, event(BOB)])
    erased = store.erase(ANN)
    assert (erased.interactions, erased.refused_until) == (2, NOW + 1000)
    assert store.export(ANN) == {"user": ANN, "interactions": [], "seen": [], "answers": []}
    assert len(held(store, BOB)) == 1
    answers = store.record([event(), ahead, event(item="new", timestamp=NOW + 200), event(BOB, "i9")])
    assert statuses(answers) == ["erased", "erased", "recorded", "recorded"]
    assert statuses(opened(NOW + 1001).record([event()])) == ["recorded"]


def test_erasing_twice_or_an_unknown_user_does_no_harm(store: InteractionStore) -> None:
    assert [store.erase(ANN).interactions, store.erase(ANN).interactions] == [0, 0]
    with pytest.raises(InteractionError, match="no pseudonym"):
        store.erase("ann")


def test_no_file_holds_an_erased_user(tmp_path: Path) -> None:
    path = tmp_path / "interactions.db"
    others = [PSEUDONYMS.of(f"other {number}") for number in range(2000)]
    marker = "a very private search 7d1f"
    with InteractionStore(path, create=True, clock=lambda: NOW) as store:
        for start in range(0, len(others), 100):
            store.record([event(user, f"i{n}") for user in others[start : start + 100] for n in range(5)])
            store.record([event(item=None, text=f"{marker} {start}"), event(item=f"private-item-{start}")])
        files = [path, path.with_name("interactions.db-wal")]
        before = b"".join(file.read_bytes() for file in files)
        assert all(text.encode() in before for text in (ANN, marker, "private-item-"))
        store.erase(ANN)
        for file in tmp_path.iterdir():
            content = file.read_bytes()
            assert all(text.encode() not in content for text in (ANN, marker, "private-item-")), file
        assert (store.stats().users, store.stats().interactions) == (2000, 10_000)
        with store.database.reading() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"


def test_an_erasure_that_a_reader_keeps_from_the_log_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recserve_server_ext.storage.database.WAIT_S", 0.0)
    with InteractionStore(tmp_path / "i.db", create=True, clock=lambda: NOW) as store:
        store.record([event(item="a"), event(item="b")])
        with store.all() as rows:
            next(rows)
            with pytest.raises(InteractionError, match="a reader keeps the old log"):
                store.erase(ANN)
        assert held(store) == []
        store.erase(ANN)
        assert ANN.encode() not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


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
