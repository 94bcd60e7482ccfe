"""Parquet: a file, a folder of parts, or Hive partitions (`year=2024/part-0.parquet`)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from recserve_client.contract import shown
from recserve_export.errors import SourceError
from recserve_export.tabular.rows import Columns, Reason, Row, RowError, flattened, nested
from recserve_export.tabular.streams import Stream, readable

_BATCH: Final = 1000


class ParquetSource:
    """Parquet, read in batches of its wanted columns; types are kept."""

    format = "parquet"

    def __init__(self, where: Stream | Path, wanted: Columns) -> None:
        """Open a file or a folder.

        Raises:
            SourceError: It cannot be read.
        """
        import pyarrow

        self._where = str(where) if isinstance(where, Path) else where.where
        self._wanted = wanted
        self._errors: tuple[type[Exception], ...] = (OSError, pyarrow.ArrowException)
        self._folder = where if isinstance(where, Path) else None
        self._stream = None if isinstance(where, Path) else where
        with readable(self._where, self._errors):
            self._schema, self.total = self._opened()
        self.done = 0

    @property
    def how(self) -> str:
        """Files and partitions."""
        if self._folder is None:
            return "Parquet"
        return f"Parquet, {len(parts_of(self._folder)):,} files"

    def rows(self) -> Iterator[Row]:
        """Every row, in order; see `Source`."""
        self.done = 0
        paths = nested(self._wanted.columns)
        with readable(self._where, self._errors):
            self._wanted.check_columns(self._schema.names)
            known = self._schema.names
            names = [name if name in known else name.partition(".")[0] for name in self._wanted.columns]
            names = [name for name in names if name in known]
            for batch in self._batches(list(dict.fromkeys(names)) or None):
                for values in rows_of(batch):
                    self.done += 1
                    if paths and isinstance(values, dict):
                        flattened(values, paths)
                    yield self.done, values

    def _opened(self) -> tuple[Any, int]:
        import pyarrow.dataset
        import pyarrow.parquet

        if self._folder is not None:
            dataset = pyarrow.dataset.dataset(
                [str(part) for part in parts_of(self._folder)],
                format="parquet",
                partitioning="hive",
                partition_base_dir=str(self._folder),
            )
            return dataset.schema, dataset.count_rows()
        assert self._stream is not None
        with pyarrow.parquet.ParquetFile(self._stream.seekable()) as file:
            return file.schema_arrow, file.metadata.num_rows

    def _batches(self, columns: list[str] | None) -> Iterator[Any]:
        import pyarrow.dataset
        import pyarrow.parquet

        if self._folder is None:
            assert self._stream is not None
            with pyarrow.parquet.ParquetFile(self._stream.seekable()) as file:
                yield from file.iter_batches(batch_size=_BATCH, columns=columns)
            return
        for part in parts_of(self._folder):  # one after another, so that rows keep their order
            dataset = pyarrow.dataset.dataset(
                [str(part)], format="parquet", partitioning="hive", partition_base_dir=str(self._folder),
                schema=self._schema,
            )  # fmt: skip
            yield from dataset.to_batches(columns=columns, batch_size=_BATCH, use_threads=False)


def parts_of(folder: Path) -> list[Path]:
    """The Parquet files under a folder, in order; names that begin with `_` or `.` are not data."""
    found = (path for ending in ("*.parquet", "*.pq") for path in folder.rglob(ending))
    return sorted(path for path in found if not path.name.startswith(("_", ".")))


def parts_checksum(folder: Path) -> str:
    """Hex SHA-256 of the names and the contents of the files under a folder."""
    found = hashlib.sha256()
    for part in parts_of(folder):
        found.update(f"{part.relative_to(folder)}\n{Stream(part).sha256()}\n".encode())
    return found.hexdigest()


def rows_of(batch: Any) -> Iterator[dict[str, Any] | RowError]:
    """The rows of a record batch as Python values; timestamps lose what is finer than a microsecond."""
    batch = _plain(batch)
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):  # one bad cell (text that is not UTF-8, a date out of range) fails the batch
        yield from (_row_of(batch, row) for row in range(batch.num_rows))


def _plain(batch: Any) -> Any:
    """Timestamps of any unit in microseconds, so that no other library is needed to read them."""
    import pyarrow as pa

    for place, field in enumerate(batch.schema):
        if pa.types.is_timestamp(field.type) and field.type.unit == "ns":
            wanted = pa.timestamp("us", tz=field.type.tz)
            batch = batch.set_column(place, field.name, batch.column(place).cast(wanted, safe=False))
    return batch


def _row_of(batch: Any, row: int) -> dict[str, Any] | RowError:
    values = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            values[name] = column[row].as_py()
        except UnicodeDecodeError as error:
            return RowError(Reason.INVALID_TEXT, f"{name} is not valid UTF-8: {shown(bytes(error.object[:40]))}")
        except (ValueError, OverflowError) as error:
            return RowError(Reason.WRONG_TYPE, f"{name} cannot be read: {error}")
    return values


def check_folder(folder: Path) -> None:
    """Refuse a folder without Parquet files.

    Raises:
        SourceError: It has none.
    """
    if not parts_of(folder):
        raise SourceError(f"{folder} is a folder without Parquet files; name a file")
