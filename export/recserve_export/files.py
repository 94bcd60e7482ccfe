"""Files that exports write: JSON documents, JSON Lines and Parquet, there whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from recserve_export.errors import ExportError
from recserve_server_ext.common.files import fsync_path

#: Rows of a Parquet row group.
_ROWS = 10_000


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a file aside that replaces `path`, fsynced, when the block ends well.

    Raises:
        ExportError: It cannot be written.
    """
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield aside
        fsync_path(aside)
        os.replace(aside, path)
        fsync_path(path.parent)
    except OSError as error:
        raise ExportError(f"{path} cannot be written: {error}") from error
    finally:
        aside.unlink(missing_ok=True)


def write_json_lines(path: Path, rows: Iterable[object]) -> int:
    """Write a JSON document a line; returns the number of rows."""
    count = 0
    with path.open("wb") as file:
        for count, row in enumerate(rows, start=1):  # noqa: B007  # the last one is the number of rows
            file.write(msgspec.json.encode(row) + b"\n")
    return count


def write_parquet(path: Path, rows: Iterable[dict[str, Any]], schema: Any) -> int:
    """Write rows by a `pyarrow.Schema`; a missing value is null. Returns the number of rows."""
    import pyarrow as pa
    import pyarrow.parquet

    count, rest = 0, iter(rows)
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while chunk := list(islice(rest, _ROWS)):
            writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
            count += len(chunk)
    return count
