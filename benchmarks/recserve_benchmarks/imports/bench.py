"""Imports into SQLite against the same rows read by pyarrow and inserted by plain statements."""

from __future__ import annotations

import random
import resource
import sqlite3
import time
from collections.abc import Callable
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
        ours = _seconds(lambda: _import(kind, path, Path(folder) / "ours.db"))
        plain = _seconds(lambda: _insert(_READERS[name](path), Path(folder) / "plain.db"))
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rows_per_s": table.num_rows / ours, "ratio_to_library": plain / ours, "peak_mib": peak_mib}


def _seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
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
        import_interactions(log, opened.source(wanted), wanted, Pseudonyms(b"k" * 32))


def _insert(table: Any, target: Path) -> None:
    """The rows as they are into a table with the same indexes, in one transaction."""
    names = ", ".join(table.column_names)
    with sqlite3.connect(target) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"CREATE TABLE rows ({names})")
        connection.execute(f"CREATE INDEX by_rows ON rows ({names})")
        marks = ", ".join("?" for _ in table.column_names)
        columns = [column.to_pylist() for column in table.columns]
        connection.executemany(f"INSERT INTO rows VALUES ({marks})", zip(*columns, strict=True))
