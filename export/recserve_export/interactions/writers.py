"""Interactions into a file: JSON Lines, CSV, Parquet, or RecBole's `.inter`."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from recserve_export.files import replacing, write_json_lines, write_parquet
from recserve_export.interactions.formats import InteractionFormat

Row = dict[str, Any]

_STRINGS: Final = ("event_id", "user", "type", "item", "text", "recommendation_id", "session_id", "context")
_NUMBERS: Final = ("timestamp", "value", "duration_s", "price", "quantity")
#: Headings of RecBole's file by field; `.inter` has no quotes, so it holds no text and no context.
_INTER: Final = {
    "user": "user_id:token",
    "item": "item_id:token",
    "type": "type:token",
    "value": "rating:float",
    "timestamp": "timestamp:float",
}


def write_interactions(path: Path, rows: Iterable[Row], file_format: InteractionFormat) -> int:
    """Write interactions in the order given; the file is there whole or not at all.

    A context is an object in JSON Lines and its JSON text elsewhere. `.inter` holds user, item, type, value (as
    rating) and timestamp; interactions with a text, or an item with a tab or line break, are left out.

    Args:
        path: The file; it is replaced.
        rows: Fields of `recserve_server_ext.interactions.interaction.Interaction` that are given.
        file_format: Format of the file.

    Returns:
        How many were written.

    Raises:
        ExportError: The file cannot be written.
    """
    with replacing(path) as aside:
        return _WRITERS[file_format](aside, rows)


def _csv(path: Path, rows: Iterable[Row]) -> int:
    names = [*_STRINGS, *_NUMBERS]
    with path.open("w", encoding="utf-8", newline="") as file:
        return _write_table(csv.writer(file), names, names, map(_flat, rows))


def _inter(path: Path, rows: Iterable[Row]) -> int:
    fits = (row for row in rows if "item" in row and not set(row["item"]) & set("\t\r\n"))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n")
        return _write_table(writer, list(_INTER.values()), list(_INTER), fits)


def _write_table(writer: Any, header: list[str], names: list[str], rows: Iterable[Row]) -> int:
    writer.writerow(header)
    count = 0
    for count, row in enumerate(rows, start=1):  # noqa: B007  # the last one is the number of rows
        writer.writerow([row.get(name, "") for name in names])
    return count


def _parquet(path: Path, rows: Iterable[Row]) -> int:
    import pyarrow as pa

    fields = [pa.field(name, pa.string()) for name in _STRINGS] + [pa.field(name, pa.float64()) for name in _NUMBERS]
    return write_parquet(path, map(_flat, rows), pa.schema(fields))


def _flat(row: Row) -> Row:
    return {**row, "context": msgspec.json.encode(row["context"]).decode()} if "context" in row else row


_WRITERS: Final[dict[InteractionFormat, Callable[[Path, Iterable[Row]], int]]] = {
    "jsonl": write_json_lines,
    "csv": _csv,
    "parquet": _parquet,
    "inter": _inter,
}
