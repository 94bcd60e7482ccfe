"""Delimited text: CSV of any dialect, tables between tabs, MovieLens' `::`, and RecBole's atomic files."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from recserve_client.contract import shown
from recserve_export.errors import MappingError, SourceError
from recserve_export.tabular.encodings import guess_encoding, named_encoding
from recserve_export.tabular.formats.dialects import SAMPLE_LINES, Dialect, guess_dialect
from recserve_export.tabular.formats.lines import Lines, text_lines
from recserve_export.tabular.options import ReadOptions
from recserve_export.tabular.rows import Columns, Reason, Row, RowError
from recserve_export.tabular.streams import Stream

#: Records that were read anew after an error of quotes; a text with more is not quoted in this way.
_MAX_RESCANS: Final = 1000
#: Lines that make a rescan count.
_LONG: Final = 100


class DelimitedSource:
    """Values between delimiters, quoted by RFC 4180; blank lines are passed over.

    A quote that is not closed costs its own line alone: the lines after it are read again.
    """

    def __init__(self, stream: Stream, wanted: Columns, options: ReadOptions) -> None:
        """Guess how the text is written.

        Raises:
            SourceError: The source cannot be read.
        """
        self.format: str = options.format or "csv"
        self._stream = stream
        self._wanted = wanted
        self._names = options.columns
        self._is_recbole = options.format == "inter"
        with stream.open() as raw:
            if options.encoding is None:
                self._encoding = guess_encoding(raw)
            else:
                self._encoding = named_encoding(options.encoding, raw.read(4))
        with stream.open() as raw:
            lines = list(islice(text_lines(raw, self._encoding), SAMPLE_LINES))
        self._dialect = (
            Dialect(options.delimiter or "\t", options.quote or "", False, False, 0)
            if self._is_recbole
            else guess_dialect(lines, wanted.columns, options, Path(stream.inner_name).suffix.lower())
        )
        self.total = stream.size
        self.done = 0

    @property
    def how(self) -> str:
        """Encoding, delimiter, quotes and header."""
        packed = "" if self._stream.compression == "none" else f"{self._stream.compression}, "
        line = f" in line {self._dialect.skipped + 1}" if self._dialect.titles else ""
        header = f"columns {', '.join(self._names)}" if self._names else f"header{line}"
        mark = " with a byte order mark" if self._encoding.has_mark else ""
        return f"{packed}{self._encoding.shown}{mark}, {self._dialect.shown}, {header}"

    def rows(self) -> Iterator[Row]:
        """Every row, in order; see `Source`."""
        with self._stream.open() as raw:
            lines = Lines(text_lines(raw, self._encoding))
            for _ in range(self._dialect.skipped):
                next(lines, None)
            records = self._records(lines)
            header = self._header(records)
            width = len(header)
            for number, record in enumerate(records, start=1):
                if number % 500 == 1:
                    self.done = self._stream.done
                if isinstance(record, RowError):
                    yield number, record
                    continue
                if len(record) > width and not any(record[width:]):
                    del record[width:]  # a delimiter at the end of every line
                if len(record) == width:
                    yield number, dict(zip(header, record, strict=True))
                else:
                    detail = (
                        f"{len(record)} values, the header has {width}: {shown(self._dialect.delimiter.join(record))}"
                    )
                    yield number, RowError(Reason.MALFORMED, detail)
        self.done = self._stream.done

    def _header(self, records: Iterator[list[str] | RowError]) -> list[str]:
        no_header: list[str] = []
        found: list[str] | RowError = list(self._names) if self._names else next(records, no_header)
        if isinstance(found, RowError):
            raise SourceError(f"the header line of {self._stream.where} cannot be read: {found.detail}")
        names = [self._column_name(name) for name in found]
        while names and not names[-1]:
            names.pop()
        if not names:
            raise SourceError(f"{self._stream.where} has no header line that names its columns")
        try:
            "".join(names).encode()
        except UnicodeEncodeError as error:
            raise SourceError(f"the header line of {self._stream.where} cannot be read: {error}") from error
        for name in self._wanted.columns:
            if f"#{name}" == names[0].replace(" ", ""):
                names[0] = name
            if names.count(name) > 1:
                raise SourceError(f"the header of {self._stream.where} names the column {name!r} twice")
        try:
            self._wanted.check_columns(names)
        except MappingError as error:
            hint = "" if self._names else "; without a header line name the columns with --columns"
            raise MappingError(f"{error} (read as {self.how}{hint})") from error
        return names

    def _column_name(self, heading: str) -> str:
        """The heading; of RecBole's `item_id:token` without its type."""
        name = heading.strip()
        return name.partition(":")[0] if self._is_recbole else name

    def _records(self, lines: Lines) -> Iterator[list[str] | RowError]:
        if len(self._dialect.delimiter) > 1:
            yield from _split(lines, self._dialect.delimiter)
            return
        reader = csv.reader(lines, strict=True, **self._dialect.format)
        taken, rescans, width = lines.taken, 0, 0
        while True:
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if lines.split_at_returns():
                    continue
                problem: Exception = error
            else:
                if len(taken) == 1:
                    taken.clear()
                    if record:
                        width = width or len(record)
                        yield record
                    continue
                if not width or len(record) == width:
                    taken.clear()
                    width = width or len(record)
                    yield record
                    continue
                # Quotes that pair across lines by chance.
                problem = csv.Error(f"{len(record)} values in {len(taken)} lines, the header has {width}")
            rescans += len(taken) > _LONG
            if rescans > _MAX_RESCANS:
                raise SourceError(
                    f"{self._stream.where} has quotes that do not close in more than {_MAX_RESCANS} places, last in "
                    f"line {lines.number}; if quotes mean nothing in it, say --quote none"
                )
            yield _refused(lines, problem)


def _refused(lines: Lines, problem: Exception) -> RowError:
    """The refusal of a record that cannot be read; the lines after its first are read again."""
    first = lines.taken[0] if lines.taken else ""
    is_open = len(lines.taken) > 1 or "unexpected end of data" in str(problem)
    lines.give_back()
    lines.taken.clear()
    if is_open:
        return RowError(
            Reason.MALFORMED, f"a quote opens in line {lines.number} and is not closed: {shown(first.rstrip())}"
        )
    return RowError(Reason.MALFORMED, f"line {lines.number} is not CSV: {problem}: {shown(first.rstrip())}")


def _split(lines: Lines, delimiter: str) -> Iterator[list[str]]:
    for line in lines:
        lines.taken.clear()
        line = line.rstrip("\r\n")
        if line:
            yield line.split(delimiter)
