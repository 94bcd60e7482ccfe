"""JSON: an object a line, or one array of objects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from recserve_client.contract import shown
from recserve_export.errors import SourceError
from recserve_export.tabular.encodings import Encoding, guess_encoding, named_encoding
from recserve_export.tabular.formats.lines import MAX_LINE, text_lines
from recserve_export.tabular.options import ReadOptions
from recserve_export.tabular.rows import Columns, Reason, Row, RowError, flattened, nested
from recserve_export.tabular.streams import Stream
from recserve_export.tabular.values import literal

_HEAD: Final = 4096
#: How a line begins that Python's `repr` wrote in place of JSON, as in older files of Amazon and Steam.
_LITERALS: Final = ("{'", "{u'")


class JsonLinesSource:
    """One JSON object a line; blank lines are passed over. Columns are only known at the end."""

    format = "jsonl"

    def __init__(self, stream: Stream, wanted: Columns, options: ReadOptions) -> None:
        """Find the encoding, which is UTF-8 unless a byte order mark or the caller says otherwise.

        Raises:
            SourceError: The source cannot be read.
        """
        self._stream = stream
        self._wanted = wanted
        head = stream.head(_HEAD)
        self._encoding = _encoding_of(options, head)
        self.total = stream.size
        self.done = 0

    @property
    def how(self) -> str:
        """Compression and encoding."""
        return _how("JSON Lines", self._stream, self._encoding)

    def rows(self) -> Iterator[Row]:
        """Every row, in order; see `Source`."""
        known: set[str] = set()
        keys: tuple[str, ...] = ()
        paths = nested(self._wanted.columns)
        with self._stream.open() as raw:
            for number, line in enumerate(text_lines(raw, self._encoding), start=1):
                if number % 500 == 1:
                    self.done = self._stream.done
                if line.isspace():
                    continue
                values = _decoded(line)
                if isinstance(values, dict):
                    if (found := tuple(values)) != keys:
                        keys = found
                        known.update(found)
                    if paths:
                        flattened(values, paths)
                yield number, values
        self.done = self._stream.done
        if known:
            self._wanted.check_columns(known)


class JsonSource:
    """A document with one array of objects, or objects one after another over several lines.

    The array is the document itself or the first array of objects in it. It is held in memory as a whole.
    """

    format = "json"

    def __init__(self, stream: Stream, wanted: Columns, options: ReadOptions) -> None:
        """Decode the document.

        Raises:
            SourceError: It cannot be read, is no JSON, or holds no array of objects.
        """
        self._stream = stream
        self._wanted = wanted
        with stream.open() as raw:
            content = raw.read()
        self._encoding = _encoding_of(options, content[:_HEAD])
        try:
            text = content.decode(self._encoding.name)
            found = msgspec.json.decode(text)
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            raise SourceError(f"{stream.where} is no JSON: {error}") from error
        rows = _array_in(found)
        if rows is None:
            raise SourceError(
                f"{stream.where} holds no array of objects; one object a line is read with --format jsonl"
            )
        self._rows = rows
        self.total = len(rows)
        self.done = 0

    @property
    def how(self) -> str:
        """Compression and encoding."""
        return _how("JSON array", self._stream, self._encoding)

    def rows(self) -> Iterator[Row]:
        """Every row, in order; see `Source`."""
        known = {name for row in self._rows if isinstance(row, dict) for name in row}
        if known:
            self._wanted.check_columns(known)
        paths = nested(self._wanted.columns)
        for number, row in enumerate(self._rows, start=1):
            self.done = number
            if isinstance(row, dict):
                yield number, flattened(dict(row), paths)
            else:
                yield number, RowError(Reason.MALFORMED, f"not a JSON object: {shown(row)}")


class CheckedSource:
    """A source without a header, read twice, so that a missing column shows before anything is stored."""

    def __init__(self, source: JsonLinesSource) -> None:
        self._source = source
        self.format = source.format
        self.total = source.total

    @property
    def done(self) -> int:
        """How much was read so far."""
        return self._source.done

    @property
    def how(self) -> str:
        """How the source is read."""
        return self._source.how

    def rows(self) -> Iterator[Row]:
        """Every row, in order; see `Source`."""
        for _ in self._source.rows():
            pass
        yield from self._source.rows()


def _encoding_of(options: ReadOptions, head: bytes) -> Encoding:
    if options.encoding is not None:
        return named_encoding(options.encoding, head)
    import io

    found = guess_encoding(io.BytesIO(head))
    return found if found.name.startswith("utf") else Encoding("utf-8", "utf-8", False)


def _how(kind: str, stream: Stream, encoding: Encoding) -> str:
    packed = "" if stream.compression == "none" else f"{stream.compression}, "
    return f"{packed}{encoding.shown}{' with a byte order mark' if encoding.has_mark else ''}, {kind}"


def _decoded(line: str) -> dict[str, Any] | RowError:
    if len(line) >= MAX_LINE:
        return RowError(Reason.TOO_LARGE, f"a line of more than {MAX_LINE:,} characters: {shown(line[:100])}")
    try:
        values = msgspec.json.decode(line)
    except UnicodeEncodeError as error:
        bad = line[error.start : error.start + 8].encode(errors="surrogateescape")
        return RowError(Reason.INVALID_TEXT, f"not valid UTF-8: {shown(bad)}")
    except (msgspec.MsgspecError, RecursionError) as error:
        values = literal(line) if line.startswith(_LITERALS) else None
        if values is None:
            return RowError(Reason.MALFORMED, f"not JSON ({error}): {shown(line.rstrip())}")
    return (
        values if isinstance(values, dict) else RowError(Reason.MALFORMED, f"not a JSON object: {shown(line.rstrip())}")
    )


def _array_in(found: Any) -> list[Any] | None:
    """The document's array of objects: itself, or the first one in it; a lone object is an array of one."""
    if isinstance(found, list):
        return found
    if not isinstance(found, dict):
        return None
    return next(filter(is_array_of_objects, found.values()), [found])


def is_array_of_objects(value: object) -> bool:
    """Whether a value is an array whose first element is an object."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)
