"""Fill an interaction store in bulk: the rows that serving would write, made in blocks of users, without a server."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import repeat
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import sqlalchemy as sa

from recserve_benchmarks.users.events import TYPE, Past
from recserve_benchmarks.users.raw import EVENT, FIRST_CHANGE, INSERT_EVENT
from recserve_server_ext.common.files import fsync_path
from recserve_server_ext.interactions.interaction import content_id
from recserve_server_ext.interactions.pseudonyms import Pseudonyms
from recserve_server_ext.interactions.tables import interactions, seen, state, users
from recserve_server_ext.interactions.writes import KINDS

#: Page cache while a SQLite store is filled: its indexes by pseudonym and event id are written to all over.
_CACHE_KIB: Final = 512 * 1024
_USERS: Final = tuple(column.name for column in users.columns)
_SEEN: Final = tuple(column.name for column in seen.columns)
_NOTHING: Final = {column.name: None for column in interactions.columns}
_KIND: Final = KINDS.get(TYPE, "seen")
Done = Callable[[int], None]


class Block(NamedTuple):
    """Rows of some users, in the order of the columns; no user is in two blocks.

    Attributes:
        users: number, pseudonym, changes.
        events: Every column but the number.
        seen: user, item, kind, last time.
    """

    users: list[tuple[Any, ...]]
    events: list[tuple[Any, ...]]
    seen: list[tuple[Any, ...]]


def blocks(pasts: Iterable[Past], pseudonyms: Pseudonyms) -> Iterator[Block]:
    """The rows of each part of the pasts; users get numbers from 1 on."""
    first = 1
    for past in pasts:
        yield _block(past, pseudonyms, first)
        first += len(past.user_ids)


def _block(past: Past, pseudonyms: Pseudonyms, first: int) -> Block:
    names = list(map(pseudonyms.of, past.user_ids))
    numbers = range(first, first + len(names))
    place = np.repeat(np.arange(len(names)), past.counts)
    items = [f"t{row}" for row in past.rows.tolist()]
    given = zip(place.tolist(), past.time_us.tolist(), items, strict=True)
    made = []
    for at, time_us, item in given:
        columns = {"time_us": time_us, "type": TYPE, "item": item}
        name_of = {**_NOTHING, **columns, "user": first + at, "event_id": content_id(columns)}
        made.append(tuple(map(name_of.__getitem__, EVENT)))
    changes = (FIRST_CHANGE + past.counts).tolist()
    # Of a user and an item the newest, one user after the other, so that both tables grow at their end.
    order = np.lexsort([-past.time_us, past.rows, place])
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = (np.diff(place[order]) != 0) | (np.diff(past.rows[order]) != 0)
    kept = order[is_first]
    saw = zip(
        (first + place[kept]).tolist(),
        map(items.__getitem__, kept.tolist()),
        repeat(_KIND),
        past.time_us[kept].tolist(),
        strict=False,
    )
    return Block(list(zip(numbers, names, changes, strict=True)), made, list(saw))


def fill_sqlite(path: Path, made: Iterable[Block], done: Done) -> None:
    """Fill an empty SQLite store, in WAL mode and fsynced when it returns.

    Until then nothing would survive a crash: there is neither a journal nor an fsync.
    """
    statements = [_insert("interaction_users", _USERS), INSERT_EVENT, _insert("seen_items", _SEEN)]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=OFF", "synchronous=OFF", f"cache_size=-{_CACHE_KIB}"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        for block in made:
            connection.execute("BEGIN")
            for statement, rows in zip(statements, block, strict=True):
                connection.executemany(statement, rows)
            connection.execute("COMMIT")
            done(len(block.events))
        connection.execute(f"UPDATE {state.name} SET revision = revision + 1")
        for pragma in ("locking_mode=NORMAL", "journal_mode=WAL"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
    fsync_path(path)


def fill_postgres(url: str, made: Iterable[Block], done: Done) -> None:
    """Fill an empty PostgreSQL store by COPY."""
    import psycopg

    tables = ((users.name, _USERS), (interactions.name, EVENT), (seen.name, _SEEN))
    with psycopg.connect(sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)) as link:
        for block in made:
            for (table, names), rows in zip(tables, block, strict=True):
                with link.cursor() as cursor, cursor.copy(f"COPY {table} ({_quoted(names)}) FROM STDIN") as copy:
                    copy.write(_copied(rows))
            link.commit()
            done(len(block.events))
        # Numbers were given, so the sequence does not know of them.
        link.execute(
            "SELECT setval(pg_get_serial_sequence('interaction_users', 'number'),"
            " (SELECT max(number) FROM interaction_users))"
        )
        link.execute(f"UPDATE {state.name} SET revision = revision + 1")
        link.commit()


def _copied(rows: Iterable[tuple[Any, ...]]) -> str:
    r"""Rows in COPY's text format, tab between columns and \N for none; no text of a fill needs an escape."""
    return "".join("\t".join(["\\N" if value is None else str(value) for value in row]) + "\n" for row in rows)


def _insert(table: str, names: tuple[str, ...]) -> str:
    return f"INSERT INTO {table} ({_quoted(names)}) VALUES ({', '.join('?' * len(names))})"


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(f'"{name}"' for name in names)
