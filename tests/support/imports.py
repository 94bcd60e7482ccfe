"""Books in every format, and what imports them into a store."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from recserve_export.catalogue.importer import ImportReport, import_catalogue
from recserve_export.catalogue.mapping import (
    FieldMapping,
    mapping_from_options,
)
from recserve_export.catalogue.rows import Refusal
from recserve_export.tabular.opening import Opened
from recserve_export.tabular.options import FileFormat
from recserve_export.tabular.rows import Reason
from recserve_server_ext.catalogue.store import CatalogueStore

FORMATS: tuple[FileFormat, ...] = ("jsonl", "csv", "parquet")
BOOKS = mapping_from_options(
    id_field="sku", texts=["title=2.0", "blurb"], attributes=["year:int", "tags:list", "price:float", "used:bool"]
)
COLUMNS = ("sku", "title", "blurb", "year", "tags", "price", "used")
DUNE = {"sku": "b1", "title": "Dune", "year": 1965, "tags": ["sand", "worms"], "price": 9.5, "used": False}
EMMA = {"sku": "b2", "title": "Emma", "blurb": "Handsome, clever and rich"}

Rows = list[dict[str, Any]]


def write_rows(path: Path, file_format: FileFormat, rows: Rows) -> Path:
    """Write the same rows in any of the formats; a column that a row lacks is empty there."""
    if file_format == "jsonl":
        path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    elif file_format == "csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            for row in rows:
                writer.writerow({name: ";".join(v) if isinstance(v, list) else v for name, v in row.items()})
    else:
        pq.write_table(pa.table({name: pa.array([row.get(name) for row in rows]) for name in COLUMNS}), path)
    return path


class Importer:
    """Imports files into the store and keeps every refusal."""

    def __init__(self, store: CatalogueStore) -> None:
        self.store = store
        self.refusals: list[Refusal] = []

    def __call__(self, path: Path, mapping: FieldMapping = BOOKS) -> ImportReport:
        opened = Opened(path, mapping.read)
        return import_catalogue(
            self.store,
            opened.source(mapping),
            mapping,
            name=path.name,
            sha256=opened.checksum(),
            identity=opened.identity,
            on_refusal=self.refusals.append,
        )

    @property
    def refused(self) -> list[tuple[int, str | None, Reason]]:
        return [(refusal.row, refusal.id, refusal.reason) for refusal in self.refusals]
