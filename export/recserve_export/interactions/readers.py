"""Files of interactions, read row by row: those of a catalogue, and RecBole's `.inter` files."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

from recserve_export.catalogue.readers import CsvSource, JsonLinesSource, ParquetSource, Row, Source
from recserve_export.errors import SourceError
from recserve_export.interactions.mapping import InteractionMapping

InteractionFormat = Literal["jsonl", "csv", "parquet", "inter"]
FORMATS: Final[dict[str, InteractionFormat]] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".inter": "inter",
}


class CheckedJsonLines(JsonLinesSource):
    """JSON Lines read twice: whether a column is missing shows at the end, and by then rows would be recorded."""

    def rows(self) -> Iterator[Row]:
        """Every row, in order; see `Source`."""
        for _ in super().rows():
            pass
        self.done = 0
        yield from super().rows()


class InterSource(CsvSource):
    """RecBole's atomic file: values between tabs, never quoted; a heading is a column and its type, `item_id:token`."""

    format = "inter"
    dialect = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}  # noqa: RUF012  # as in the class it comes from

    def column_name(self, heading: str) -> str:
        """The heading without its type."""
        return heading.partition(":")[0]


_SOURCES: Final[dict[InteractionFormat, Callable[[Path, InteractionMapping], Source]]] = {
    "jsonl": CheckedJsonLines,
    "csv": CsvSource,
    "parquet": ParquetSource,
    "inter": InterSource,
}


def format_of(path: Path, file_format: InteractionFormat | None) -> InteractionFormat:
    """The format asked for, or else the one that the name tells.

    Raises:
        SourceError: It tells none.
    """
    found = file_format or FORMATS.get(path.suffix.lower())
    if found is None:
        raise SourceError(f"the name of {path} does not tell its format; add --format jsonl, csv, parquet or inter")
    return found


def open_interactions(path: Path, mapping: InteractionMapping, file_format: InteractionFormat | None = None) -> Source:
    """A source for a file.

    Args:
        path: The file.
        mapping: Which columns to read.
        file_format: `None` tells it by the ending of the name.

    Raises:
        SourceError: There is no such file, or its name does not tell the format.
    """
    if not path.is_file():
        raise SourceError(f"no file {path}")
    return _SOURCES[format_of(path, file_format)](path, mapping)
