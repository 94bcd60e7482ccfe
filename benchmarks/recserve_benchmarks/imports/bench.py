"""Imports into SQLite against the same job by libraries alone.

The libraries read the same file (pyarrow), and write the same rows into the same tables with the same indexes, the same
durability and transactions of the same size (sqlite3). Nothing is guessed, checked row by row, or refused by them. Both
take turns, and the best of three rounds counts.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import random
import resource
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from recserve_export.catalogue.importer import import_catalogue
from recserve_export.catalogue.mapping import mapping_from_options
from recserve_export.interactions.importer import import_interactions
from recserve_export.interactions.mapping import InteractionMapping
from recserve_export.tabular.opening import Opened
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.interactions.pseudonyms import Pseudonyms
from recserve_server_ext.interactions.store import InteractionStore

FORMATS: Final = ("csv", "jsonl", "parquet")
#: As in imports: rows of a transaction, and the page cache.
_BATCH: Final = 200_000
_ROUNDS: Final = 3
_CACHE_KIB: Final = 256 * 1024
_KEY: Final = b"k" * 32
_READERS: Final[dict[str, Callable[[Path], Any]]] = {
    "csv": pyarrow.csv.read_csv,
    "jsonl": pyarrow.json.read_json,
    "parquet": pyarrow.parquet.read_table,
}


def measure(rows: int, seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """Rows a second, the ratio to the library, and the peak of the process's memory, by kind and format."""
    chance = random.Random(seed)
    tables = {
        "catalogue": pa.table(
            {"id": [f"i{n}" for n in range(rows)], "title": [f"Title {n} of many" for n in range(rows)]}
        ),
        "interactions": pa.table(
            {
                "user_id": [f"u{chance.randrange(max(rows // 5, 1))}" for _ in range(rows)],
                "item_id": [f"i{chance.randrange(max(rows // 4, 1))}" for _ in range(rows)],
                "timestamp": [1_600_000_000 + n for n in range(rows)],
            }
        ),
    }
    return {kind: {name: _measured(kind, name, table) for name in FORMATS} for kind, table in tables.items()}


def _measured(kind: str, name: str, table: Any) -> dict[str, float]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"x.{name}"
        _write(path, name, table)
        ours, plain = math.inf, math.inf
        for turn in range(_ROUNDS):
            ours = min(ours, _seconds(_import, kind, path, Path(folder) / f"ours{turn}.db"))
            plain = min(plain, _seconds(_insert, kind, name, path, Path(folder) / f"plain{turn}.db"))
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rows_per_s": table.num_rows / ours, "ratio_to_library": plain / ours, "peak_mib": peak_mib}


def _seconds(run: Callable[..., None], *arguments: Any) -> float:
    start = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - start


def _write(path: Path, name: str, table: Any) -> None:
    if name == "csv":
        pyarrow.csv.write_csv(table, path)
    elif name == "jsonl":
        import msgspec

        path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in table.to_pylist()))
    else:
        pyarrow.parquet.write_table(table, path)


def _import(kind: str, path: Path, target: Path) -> None:
    opened = Opened(path)
    if kind == "catalogue":
        mapping = mapping_from_options(texts=["title"])
        with CatalogueStore(target, create=True) as store:
            import_catalogue(store, opened.source(mapping), mapping, name="x", sha256="", identity="")
        return
    wanted = InteractionMapping(type="click")
    with InteractionStore(target, create=True) as log:
        import_interactions(log, opened.source(wanted), wanted, Pseudonyms(_KEY))


def _insert(kind: str, name: str, path: Path, target: Path) -> None:
    """The same rows, by pyarrow and sqlite3 alone, into the tables of the same store."""
    table = _READERS[name](path)
    made = CatalogueStore if kind == "catalogue" else InteractionStore
    with made(target, create=True):
        pass
    connection = sqlite3.connect(target, isolation_level=None)
    with closing(connection):
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA wal_autocheckpoint=40000")
        connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        insert = _insert_items if kind == "catalogue" else _insert_interactions
        for start in range(0, table.num_rows, _BATCH):
            columns = [column.to_pylist() for column in table.slice(start, _BATCH).columns]
            connection.execute("BEGIN IMMEDIATE")
            insert(connection, *columns)
            connection.execute("COMMIT")


def _insert_items(connection: sqlite3.Connection, ids: list[str], titles: list[str]) -> None:
    rows = ((item, json.dumps({"title": title}), "{}", True, 1, 1) for item, title in zip(ids, titles, strict=True))
    names = "id, texts, attributes, available, revision, texts_revision"
    connection.executemany(f"INSERT INTO items ({names}) VALUES (?, ?, ?, ?, ?, ?)", rows)


def _insert_interactions(connection: sqlite3.Connection, users: list[str], items: list[str], times: list[int]) -> None:
    """With pseudonyms, ids by content, duplicates passed over, and the seen items."""
    of = {user: hmac.digest(_KEY, user.encode(), "sha256").hex() for user in dict.fromkeys(users)}
    connection.executemany(
        "INSERT INTO interaction_users (pseudonym, changes) VALUES (?, 0) ON CONFLICT DO NOTHING", zip(of.values())
    )
    number_of = dict(connection.execute("SELECT pseudonym, number FROM interaction_users"))
    (before,) = connection.execute("SELECT coalesce(max(number), 0) FROM interactions").fetchone()
    rows = (
        (
            number_of[of[user]],
            hashlib.sha256(f"click {item} {time}".encode()).hexdigest(),
            time * 1_000_000,
            "click",
            item,
        )
        for user, item, time in zip(users, items, times, strict=True)
    )
    connection.executemany(
        'INSERT INTO interactions ("user", event_id, time_us, type, item) VALUES (?, ?, ?, ?, ?) '
        "ON CONFLICT DO NOTHING",
        rows,
    )
    connection.execute(
        "INSERT INTO seen_items SELECT user, item, 'seen', max(time_us) FROM interactions WHERE number > ? "
        "GROUP BY user, item ON CONFLICT DO UPDATE SET last_us = max(last_us, excluded.last_us)",
        (before,),
    )
    connection.execute(
        "UPDATE interaction_users SET changes = changes + new.added FROM (SELECT user, count(*) AS added "
        "FROM interactions WHERE number > ? GROUP BY user) AS new WHERE interaction_users.number = new.user",
        (before,),
    )
