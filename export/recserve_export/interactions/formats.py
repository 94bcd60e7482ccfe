"""Formats that interactions are written in."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from recserve_export.errors import SourceError

InteractionFormat = Literal["jsonl", "csv", "parquet", "inter"]
_ENDINGS: Final[dict[str, InteractionFormat]] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".inter": "inter",
}


def format_of(path: Path, file_format: InteractionFormat | None) -> InteractionFormat:
    """The format asked for, or else the one that the name tells.

    Raises:
        SourceError: It tells none.
    """
    found = file_format or _ENDINGS.get(path.suffix.lower())
    if found is None:
        raise SourceError(f"the name of {path} does not tell its format; add --format jsonl, csv, parquet or inter")
    return found
