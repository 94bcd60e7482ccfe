"""Files of rows, of a catalogue or of interactions: JSON Lines, CSV and Parquet, read row by row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Protocol

import msgspec

from recserve_client.contract import shown
from recserve_export.catalogue.mapping import FieldMapping
from recserve_export.catalogue.rows import Reason, RowError
from recserve_export.errors import SourceError
from recserve_server_ext.common.files import sha256_of

FileFormat = Literal["jsonl", "csv", "parquet"]
#: A row by its number (from 1): column -> value, or why it cannot be read.
Row = tuple[int, "dict[str, Any] | RowError"]

_FORMATS: Final[dict[str, FileFormat]] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_BATCH: Final = 1000
_BOM: Final = b"\xef\xbb\xbf"


class Columns(Protocol):
    """Which columns are wanted: what a reader needs to know of a mapping."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read, each once."""

    def check_columns(self, known: Iterable[str]) -> None:
        """Refuse a column that the source does not have.

        Raises:
            MappingError: Names the column and the nearest that there is.
        """


class Source(Protocol):
    """Rows to import.

    Attributes:
        format: How the file is read; part of what tells two imports apart.
        is_textual: Whether every value is text, so that numbers have to be parsed.
        total: Size of the whole, in the unit of `done`.
        done: How much was read so far.
    """

    format: str
    is_textual: bool
    total: int
    done: int

    def rows(self) -> Iterator[Row]:
        """Every row, in order.

        Raises:
            MappingError: The mapping names a column that the source does not have.
            SourceError: The source cannot be read further.
        """


def open_source(path: Path, mapping: FieldMapping, file_format: FileFormat | None = None) -> Source:
    """A source for a file.

    Args:
        path: The file.
        mapping: Which columns to read.
        file_format: `None` tells it by the ending of the name.

    Raises:
        SourceError: There is no such file, or its name does not tell the format.
    """
    if not path.is_file():
        raise SourceError(f"no file {path}; SOURCE is a file, or 'films' for the films of bokeh-sampledata")
    file_format = file_format or _FORMATS.get(path.suffix.lower())
    if file_format is None:
        raise SourceError(f"the name of {path} does not tell its format; add --format jsonl, csv or parquet")
    if file_format == "jsonl":
        return JsonLinesSource(path, mapping)
    return CsvSource(path, mapping) if file_format == "csv" else ParquetSource(path, mapping)


def checksum(path: Path) -> str:
    """Hex SHA-256 of a source file.

    Raises:
        SourceError: It cannot be read.
    """
    with _readable(path):
        return sha256_of(path)


class JsonLinesSource:
    """One JSON object a line; blank lines are passed over. Columns are only known at the end."""

    format = "jsonl"
    is_textual = False

    def __init__(self, path: Path, mapping: Columns) -> None:
        self._path = path
        self._mapping = mapping
        self.total = path.stat().st_size
        self.done = 0

    def rows(self) -> Iterator[Row]:
        """Every row, in order; see `Source`."""
        known: set[str] = set()
        with _readable(self._path), self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                self.done += len(line)
                line = line.removeprefix(_BOM) if number == 1 else line
                if not line.isspace():
                    values = _decoded(line)
                    if isinstance(values, dict):
                        known.update(values)
                    yield number, values
        if known:
            self._mapping.check_columns(known)


def _decoded(line: bytes) -> dict[str, Any] | RowError:
    try:
        values = msgspec.json.decode(line)
    except UnicodeDecodeError as error:
        bad = line[error.start : error.start + 8]
        return RowError(Reason.INVALID_TEXT, f"not valid UTF-8: {shown(bad)}")
    except (msgspec.MsgspecError, RecursionError) as error:
        return RowError(Reason.MALFORMED, f"not JSON ({error}): {shown(line.rstrip())}")
    return (
        values if isinstance(values, dict) else RowError(Reason.MALFORMED, f"not a JSON object: {shown(line.rstrip())}")
    )


class CsvSource:
    """Comma-separated values with a header line, quoted by RFC 4180; blank lines are passed over."""

    format = "csv"
    is_textual = True
    dialect: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, path: Path, mapping: Columns) -> None:
        self._path = path
        self._mapping = mapping
        self.total = path.stat().st_size
        self.done = 0

    def rows(self) -> Iterator[Row]:
        """Every row, in order; see `Source`."""
        # Bytes that are not UTF-8 become lone surrogates, so that only their own row is refused.
        with (
            _readable(self._path),
            self._path.open("rb") as raw,
            io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="") as file,
        ):
            reader = csv.reader(file, strict=True, **self.dialect)
            header = self._header(reader)
            for number, record in enumerate(_records(reader), start=1):
                self.done = raw.tell()
                if isinstance(record, RowError):
                    yield number, record
                elif len(record) != len(header):
                    detail = f"{len(record)} values, the header has {len(header)}: {shown(','.join(record))}"
                    yield number, RowError(Reason.MALFORMED, detail)
                else:
                    yield number, dict(zip(header, record, strict=True))

    def column_name(self, heading: str) -> str:
        """The name of a column by its heading."""
        return heading

    def _header(self, reader: Iterator[list[str]]) -> list[str]:
        try:
            header = [self.column_name(name) for name in next(reader, [])]
            "".join(header).encode()
        except (csv.Error, UnicodeEncodeError) as error:
            raise SourceError(f"the header line of {self._path} cannot be read: {error}") from error
        if not header:
            raise SourceError(f"{self._path} has no header line that names its columns")
        for name in header:
            if header.count(name) > 1:
                raise SourceError(f"the header of {self._path} names the column {name!r} twice")
        self._mapping.check_columns(header)
        return header


def _records(reader: Iterator[list[str]]) -> Iterator[list[str] | RowError]:
    while True:
        try:
            record = next(reader, None)
        except csv.Error as error:
            yield RowError(Reason.MALFORMED, f"not CSV: {error}")
            continue
        if record is None:
            return
        if record:
            yield record


class ParquetSource:
    """A Parquet file, read in batches of its mapped columns."""

    format = "parquet"
    is_textual = False

    def __init__(self, path: Path, mapping: Columns) -> None:
        import pyarrow.parquet

        self._path = path
        self._mapping = mapping
        self._errors: tuple[type[Exception], ...] = (OSError, pyarrow.ArrowException)
        with _readable(path, self._errors):
            self._file = pyarrow.parquet.ParquetFile(path)
        self.total = self._file.metadata.num_rows
        self.done = 0

    def rows(self) -> Iterator[Row]:
        """Every row, in order; see `Source`."""
        with self._file, _readable(self._path, self._errors):
            self._mapping.check_columns(self._file.schema_arrow.names)
            for batch in self._file.iter_batches(batch_size=_BATCH, columns=list(self._mapping.columns)):
                for values in _rows_of(batch):
                    self.done += 1
                    yield self.done, values


def _rows_of(batch: Any) -> Iterator[dict[str, Any] | RowError]:
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):  # one bad cell (text that is not UTF-8, a date out of range) fails the batch
        yield from (_row_of(batch, row) for row in range(batch.num_rows))


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


@contextmanager
def _readable(path: Path, errors: tuple[type[Exception], ...] = (OSError,)) -> Iterator[None]:
    """Turn errors of reading a file into `SourceError`."""
    try:
        yield
    except errors as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
