"""The interaction store written raw by sqlite3: the same rows in the same tables, without a server.

Run as ``python -m recserve_benchmarks.users.raw FILE KEY``; see `recserve_benchmarks.harness.worker`.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec

from recserve_benchmarks.harness.worker import Worker, work_on_jobs
from recserve_benchmarks.users.events import columns_of
from recserve_client.contract import NewInteraction
from recserve_server_ext.interactions.key_file import read_pseudonyms
from recserve_server_ext.interactions.pseudonyms import Pseudonyms
from recserve_server_ext.interactions.tables import interactions
from recserve_server_ext.interactions.writes import KINDS

FIRST_CHANGE: Final = 1_000_000
EVENT: Final = tuple(column.name for column in interactions.columns if column.name != "number")
_NOT_EVENTS: Final = {
    "users": "INSERT INTO interaction_users (number, pseudonym, changes) VALUES (?, ?, ?)"
    " ON CONFLICT (pseudonym) DO UPDATE SET changes = changes + 1",
    "seen": 'INSERT INTO seen_items ("user", item, kind, last_us) VALUES (?, ?, ?, ?)'
    ' ON CONFLICT ("user", item, kind) DO UPDATE SET last_us = excluded.last_us'
    " WHERE excluded.last_us > seen_items.last_us",
    "state": "UPDATE interaction_state SET revision = revision + 1",
}
_QUOTED: Final = ", ".join(f'"{name}"' for name in EVENT)
INSERT_EVENT: Final = f"INSERT INTO interactions ({_QUOTED}) VALUES ({', '.join('?' * len(EVENT))})"


class Rows(msgspec.Struct, array_like=True):
    """Rows of the tables, in the order of their columns.

    Attributes:
        users: number, pseudonym, changes.
        events: Every column but the number.
        seen: user, item, kind, last time.
    """

    users: list[tuple[Any, ...]] = []
    events: list[tuple[Any, ...]] = []
    seen: list[tuple[Any, ...]] = []


class RowMaker:
    """Interactions -> the rows that serving would write for them."""

    def __init__(self, pseudonyms: Pseudonyms, first_number: int) -> None:
        self._pseudonyms = pseudonyms
        self._next = first_number
        self._numbers: dict[str, int] = {}

    def __call__(self, made: Iterable[NewInteraction]) -> Rows:
        """The rows of some interactions; a user keeps the number that the first of them got."""
        rows = Rows()
        last: dict[tuple[int, str, str], int] = {}
        counts: Counter[str] = Counter()
        for event in made:
            user, columns = columns_of(event, self._pseudonyms)
            number = self._numbers.setdefault(user, self._next + len(self._numbers))
            counts[user] += 1
            context = columns["context"]
            of = {**columns, "user": number, "context": None if context is None else msgspec.json.encode(context)}
            rows.events.append(tuple(of[name] for name in EVENT))
            key = (number, columns["item"], KINDS.get(columns["type"], "seen"))
            last[key] = max(columns["time_us"], last.get(key, 0))
        rows.users = [(self._numbers[user], user, FIRST_CHANGE + count) for user, count in counts.items()]
        rows.seen = [(*key, time_us) for key, time_us in last.items()]
        return rows


def write_sqlite(connection: sqlite3.Connection, rows: Rows) -> None:
    """Write rows in one transaction of a connection."""
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(_NOT_EVENTS["users"], rows.users)
    connection.executemany(INSERT_EVENT, rows.events)
    connection.executemany(_NOT_EVENTS["seen"], rows.seen)
    connection.execute(_NOT_EVENTS["state"])
    connection.execute("COMMIT")


def open_sqlite(path: Path) -> sqlite3.Connection:
    """As serving opens it: synchronous=FULL, in a file that is in WAL mode; the file must be there."""
    connection = sqlite3.connect(f"file:{path}?mode=rw", uri=True, isolation_level=None)
    connection.execute("PRAGMA synchronous=FULL")
    return connection


class RawJob(msgspec.Struct, frozen=True):
    """Interactions to write, so many a transaction."""

    events: list[NewInteraction]
    size: int = 100


class RawRecorded(msgspec.Struct, frozen=True):
    """What writing came to."""

    events: int
    wall_s: float


class RawStore(Worker[RawRecorded]):
    """Writes into a SQLite store in a process of its own."""

    def __init__(self, path: Path, key: Path) -> None:
        super().__init__("recserve_benchmarks.users.raw", str(path), str(key), answer=RawRecorded, name="the raw store")

    def per_s(self, made: Sequence[NewInteraction], size: int) -> float:
        """Interactions a second, so many a transaction."""
        cost = self.ask(RawJob(list(made), size))
        return cost.events / cost.wall_s


def _work(path: Path, key: Path) -> None:
    maker = RowMaker(read_pseudonyms(key), 10**9)
    with closing(open_sqlite(path)) as connection:

        def write(job: RawJob) -> RawRecorded:
            prepared = [maker(job.events[at : at + job.size]) for at in range(0, len(job.events), job.size)]
            start = time.perf_counter()
            for rows in prepared:
                write_sqlite(connection, rows)
            return RawRecorded(len(job.events), time.perf_counter() - start)

        work_on_jobs(RawJob, write)


if __name__ == "__main__":
    _work(Path(sys.argv[1]), Path(sys.argv[2]))
