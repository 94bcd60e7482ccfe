"""Windows of interactions, on SQLite and on a real PostgreSQL: the newest of many users in one read."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from recserve_server_ext.config.interactions import InteractionLimits
from recserve_server_ext.interactions.changes import change_numbers
from recserve_server_ext.interactions.comments import comments_query
from recserve_server_ext.interactions.reads import listed, pasts, window_query
from recserve_server_ext.interactions.store import InteractionStore
from support.events import ANN, BOB, NOW, PSEUDONYMS, event

#: 100,000 interactions of Ann, a second apart.
MANY = """
INSERT INTO interactions ("user", event_id, time_us, type, item)
WITH RECURSIVE counted(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM counted WHERE n < 99999)
SELECT number, 'made ' || n, CAST(:newest AS BIGINT) - 1000000 * CAST(n AS BIGINT), 'view', 'x'
FROM counted, interaction_users WHERE pseudonym = :ann
"""


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


def test_of_interactions_at_one_time_a_window_holds_those_that_came_last(store: InteractionStore) -> None:
    same = [event(item=f"i{n}", event_id=f"i{n}", value=n) for n in range(3)]
    store.record([*same, event(item=None, text="jazz", event_id="jazz"), event(item="i4", event_id="i4", value=4)])
    store.record([event(item=None, text="first", event_id="first", timestamp=NOW - 90)])
    found = store.window([ANN], limit=3)
    assert [found.subjects[code] for code in found.subject] == ["i4", "jazz", "i2"]
    assert found.value[[0, 2]].tolist() == [4, 2]
    every = store.window([ANN])
    assert [every.subjects[code] for code in every.subject] == ["i4", "jazz", "i2", "i1", "i0", "first"]


def test_a_window_and_what_was_seen_before_it_are_all_that_was_seen(store: InteractionStore) -> None:
    random = np.random.default_rng(0)
    # Few times, so that many are equal to that of the oldest interaction of a window.
    drawn = zip(random.integers(30, size=80).tolist(), random.integers(12, size=80).tolist(), strict=True)
    store.record(
        [event(item=f"i{item}", timestamp=NOW - 60 - age, event_id=f"{n}") for n, (item, age) in enumerate(drawn)]
    )
    store.record([event(item="i0", type="purchase"), event(BOB, item=None, text="jazz")])
    every = {entry["item"] for entry in store.export(ANN)["seen"]}
    with store.database.reading() as connection:
        numbers = numbers_of(connection, ANN, BOB)
        for limit in (1, 5, 30, 81, 500):
            columns, seen = pasts(connection, numbers, limit)
            assert columns.offsets[1] == min(limit, 81)
            window = {columns.subjects[code] for code in columns.subject[: columns.offsets[1]]}
            assert window | set(seen[0]) == every
            assert not seen[1]
    # With all interactions in the window, nothing else is named.
    assert not seen[0]


def test_what_was_seen_outlives_the_interactions(store_place: Path | str) -> None:
    limits = InteractionLimits(max_age_s=100.0)
    with InteractionStore(store_place, limits, create=True, clock=lambda: NOW) as store:
        store.record([event(item="old", timestamp=NOW - 200), event(BOB, item="older", timestamp=NOW - 300), event()])
        store.expire()
        with store.database.reading() as connection:
            numbers = numbers_of(connection, ANN, BOB)
            columns, seen = pasts(connection, numbers, 500)
        assert columns.offsets.tolist() == [0, 1, 1]
        assert seen == [["old"], ["older"]]


def test_a_text_and_an_item_of_the_same_name_are_two_subjects(store: InteractionStore) -> None:
    store.record([event(), event(item=None, text="i1")])
    found = store.window([ANN])
    assert (found.subjects, sorted(found.is_item.tolist())) == (["i1", "i1"], [False, True])


def test_the_window_of_a_busy_user_is_read_by_the_index_alone(store: InteractionStore) -> None:
    store.record([event(BOB, timestamp=NOW - number) for number in range(500)])
    store.record([event()])
    with store.database.writing() as connection:
        connection.execute(sa.text(MANY), {"newest": round((NOW - 1) * 1e6), "ann": ANN})
        connection.exec_driver_sql("ANALYZE")
    with store.database.reading() as connection:
        numbers = numbers_of(connection, ANN, BOB)
        query = window_query(connection.dialect.name, with_seen=False)
        plan = explained(connection, query, {**listed(numbers), "most": 500})
    # Of each user the oldest that counts is looked for, and then the window is read. Nothing is sorted, which keeps the
    # window in the order of the index.
    text = "\n".join(plan)
    if store.database.is_sqlite:
        assert "SEARCH oldest USING COVERING INDEX ix_interactions_user_time (user=?)" in text
        assert "SEARCH newest USING COVERING INDEX ix_interactions_user_time (user=? AND time_us>?)" in text
        assert text.count("newest") == text.count("oldest") == 1
        assert "TEMP B-TREE" not in text
    else:
        assert re.search("Index (Only )?Scan Backward using ix_interactions_user_time", text)
        assert "Seq Scan on interactions" not in text
        walked = [line for line in plan if "ix_interactions_user_time" in line]
        assert len(walked) == 2
        assert all("rows=500 loops=2" in line or "rows=500.00 loops=2" in line for line in walked)
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


def test_a_window_with_comments_has_those_of_its_interactions(store: InteractionStore) -> None:
    store.record(
        [
            event(item="i1", text="loud", timestamp=NOW - 1),
            event(item="i1", timestamp=NOW - 2),
            event(item="i1", type="click", text="quiet", timestamp=NOW - 2),
            event(item=None, text="jazz", type="search", timestamp=NOW - 3),
            event(item="i2", text="old", timestamp=NOW - 4),
            event(BOB, item="i1", text="fine", timestamp=NOW - 1),
        ]
    )
    nobody = PSEUDONYMS.of("nobody")
    found = store.window([BOB, nobody, ANN], limit=4, has_comments=True)
    where = [(found.types[found.type[n]], found.subjects[found.subject[n]], text) for n, text in found.comments.items()]
    assert sorted(where) == [("click", "i1", "quiet"), ("view", "i1", "fine"), ("view", "i1", "loud")]
    assert found.comments[0] == "fine"
    assert store.window([BOB, ANN]).comments == {}


def test_comments_are_found_by_an_index_of_their_own(store: InteractionStore) -> None:
    store.record([event(item="i1", text="loud")])
    with store.database.writing() as connection:
        connection.execute(sa.text(MANY), {"newest": round((NOW - 1) * 1e6), "ann": ANN})
        connection.exec_driver_sql("ANALYZE")
    with store.database.reading() as connection:
        number = change_numbers(connection, [ANN])[ANN][0]
        query = comments_query(connection.dialect.name, is_past=False)
        plan = explained(connection, query, {**listed([number]), "most": 500})
        stored = {"sqlite": "SELECT sql FROM sqlite_master", "postgresql": "SELECT indexdef FROM pg_indexes"}
        made = [str(row[0]) for row in connection.exec_driver_sql(stored[connection.dialect.name])]
    assert "ix_interactions_comments" in "\n".join(plan)
    assert "TEMP B-TREE" not in "\n".join(plan)
    (of_comments,) = (line for line in made if "INDEX ix_interactions_comments" in line)
    assert "WHERE" in of_comments  # nothing of interactions without a comment lies in it


def numbers_of(connection: sa.Connection, *users: str) -> list[int]:
    """The numbers of some users, in their order."""
    found = change_numbers(connection, users)
    return [found[user][0] for user in users]


def explained(connection: sa.Connection, query: sa.Select[Any], parameters: dict[str, Any]) -> list[str]:
    """The lines of the plan of a query."""
    compiled = query.compile(connection)
    explain = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN (ANALYZE, TIMING OFF)"
    values, order = compiled.params | parameters, compiled.positiontup
    given = values if order is None else tuple(values[name] for name in order)
    return [" ".join(map(str, row)) for row in connection.exec_driver_sql(f"{explain} {compiled}", given)]
