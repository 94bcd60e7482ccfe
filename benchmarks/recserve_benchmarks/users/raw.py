"""The interaction store written by sqlite3 alone, in a process of its own: the same rows in the same tables."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from recserve_benchmarks.harness.worker import Worker
from recserve_server_ext.interactions.tables import interactions

_COLUMNS: Final = tuple(column.name for column in interactions.columns)
_NAMES: Final = ", ".join(f'e."{name}"' for name in _COLUMNS)
_RECORDED: Final = (
    f'SELECT u.pseudonym, {_NAMES} FROM interactions e JOIN interaction_users u ON u.number = e."user"'
    " WHERE e.number > ? ORDER BY e.number LIMIT ?"
)
_ADD_USER: Final = (
    "INSERT INTO interaction_users (number, pseudonym, changes) VALUES (?, ?, ?)"
    " ON CONFLICT (number) DO UPDATE SET changes = changes + excluded.changes"
)
_ADD_INTERACTION: Final = f"INSERT INTO interactions VALUES ({', '.join('?' * len(_COLUMNS))})"
_ADD_SEEN: Final = (
    "INSERT INTO seen_items (\"user\", item, kind, last_us) VALUES (?, ?, 'seen', ?)"
    ' ON CONFLICT ("user", item, kind) DO UPDATE SET last_us = max(last_us, excluded.last_us)'
)
_NEXT_REVISION: Final = "UPDATE interaction_state SET revision = revision + 1"
_USER, _TIME, _ITEM = (_COLUMNS.index(name) for name in ("user", "time_us", "item"))


class RawJob(NamedTuple):
    """How many of the next interactions to copy while the clock runs, and how many in a transaction."""

    interactions: int
    size: int


def raw_store(source: Path, copy: Path) -> Worker[RawJob, float]:
    """The process of a raw store, which answers with interactions/s.

    Args:
        source: SQLite file of an interaction store that a server writes.
        copy: A copy of it from before the server wrote.
    """
    return Worker("the raw store", copier, source, copy)


def copier(source: Path, copy: Path) -> Callable[[RawJob], float]:
    """What writes into the copy the rows that the server has written since, with synchronous=FULL as it does."""
    reading, writing = sqlite3.connect(source), sqlite3.connect(copy, isolation_level=None)
    writing.execute("PRAGMA synchronous=FULL")
    last: int = writing.execute("SELECT max(number) FROM interactions").fetchone()[0]

    def work(job: RawJob) -> float:
        nonlocal last
        found = reading.execute(_RECORDED, (last, job.interactions)).fetchall()
        last = found[-1][1]
        start = time.perf_counter()
        for first in range(0, len(found), job.size):
            _write(writing, found[first : first + job.size])
        return len(found) / (time.perf_counter() - start)

    return work


def _write(connection: sqlite3.Connection, recorded: Sequence[tuple[Any, ...]]) -> None:
    """Write interactions, each after the pseudonym of its user, in one transaction."""
    rows = [row[1:] for row in recorded]
    changes = Counter((row[_USER], pseudonym) for (pseudonym, *_), row in zip(recorded, rows, strict=True))
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(_ADD_USER, [(*user, count) for user, count in changes.items()])
    connection.executemany(_ADD_INTERACTION, rows)
    connection.executemany(_ADD_SEEN, [(row[_USER], row[_ITEM], row[_TIME]) for row in rows])
    connection.execute(_NEXT_REVISION)
    connection.execute("COMMIT")
