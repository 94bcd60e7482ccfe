"""JSON: an object a line, or one array of objects; neither is held in memory."""

from __future__ import annotations

import codecs
import datetime
import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Final

import msgspec

from recserve_client.contract import shown
from recserve_export.errors import SourceError, first_line
from recserve_export.tabular.encodings import Encoding, guess_encoding, named_encoding
from recserve_export.tabular.formats.lines import MAX_LINE, text_lines
from recserve_export.tabular.options import ReadOptions
from recserve_export.tabular.rows import Columns, Reason, Row, RowError, flattened, nested
from recserve_export.tabular.streams import Stream
from recserve_export.tabular.values import literal

_HEAD: Final = 4096
#: How a line begins that Python's `repr` wrote in place of JSON, as in older files of Amazon and Steam.
_LITERALS: Final = ("{'", "{u'")
#: A string, or a number that JSON has not.
_NOT_FINITE: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|(-?(?:NaN|Infinity))', re.DOTALL)
_WORD: Final = len("-Infinity")
#: How a name begins that says the type of a value, in MongoDB's extended JSON.
_TYPED: Final = '"$'


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
                    if _TYPED in line:
                        values = _typed(values)
                yield number, values
        self.done = self._stream.done
        if known:
            self._wanted.check_columns(known)


class JsonSource:
    """A document with one array of objects, read an element at a time. Columns are only known at the end.

    The array is the document itself or the first array of objects in it; a document without one is a row.
    """

    format = "json"

    def __init__(self, stream: Stream, wanted: Columns, options: ReadOptions) -> None:
        """Find the array.

        Raises:
            SourceError: It cannot be read, or is no JSON up to there.
        """
        self._stream = stream
        self._wanted = wanted
        self._encoding = _encoding_of(options, stream.head(_HEAD))
        with self._opened() as file:
            self._prefix = _prefix_of(file)
        self.total = stream.size
        self.done = 0

    @property
    def how(self) -> str:
        """Compression and encoding."""
        return _how("JSON array", self._stream, self._encoding)

    def rows(self) -> Iterator[Row]:
        """Every row, in order; see `Source`."""
        import ijson

        known: set[str] = set()
        paths = nested(self._wanted.columns)
        with self._opened() as file:
            # Documents may follow each other, as exports write them that are made to be read.
            rows = ijson.items(file, self._prefix, use_float=True, multiple_values=True)
            for number, row in enumerate(rows, start=1):
                self.done = self._stream.done
                yield number, self._row(row, known, paths)
        self.done = self._stream.done
        if known:
            self._wanted.check_columns(known)

    def _row(self, row: Any, known: set[str], paths: list[tuple[str, list[str]]]) -> dict[str, Any] | RowError:
        if not isinstance(row, dict):
            return RowError(Reason.MALFORMED, f"not a JSON object: {shown(row)}")
        known.update(row)
        return _typed(flattened(row, paths))

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """The document in UTF-8."""
        import ijson

        try:
            with self._stream.open() as raw:
                name = self._encoding.name
                yield _Finite(raw if name == "utf-8" else _InUtf8(raw, name))
        except (ijson.JSONError, UnicodeError) as error:
            raise SourceError(f"{self._stream.where} is no JSON: {first_line(error)}") from error


class CheckedSource:
    """A source without a header, read twice, so that a missing column shows before anything is stored."""

    def __init__(self, source: JsonLinesSource | JsonSource) -> None:
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
        values = _lenient(line)
        if values is None:
            return RowError(Reason.MALFORMED, f"not JSON ({error}): {shown(line.rstrip())}")
    return (
        values if isinstance(values, dict) else RowError(Reason.MALFORMED, f"not a JSON object: {shown(line.rstrip())}")
    )


def _typed(row: dict[str, Any]) -> dict[str, Any] | RowError:
    try:
        return _plain(row)
    except (ValueError, TypeError, OverflowError) as error:
        return RowError(Reason.WRONG_TYPE, f"a typed value cannot be read ({error}): {shown(row)}")


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the values of MongoDB's typed objects, such as `{"$oid": "507f1f77"}`, in their place."""
    for name, value in row.items():
        if type(value) is dict:
            row[name] = _plain_value(value)
        elif type(value) is list:
            row[name] = [_plain_value(part) if type(part) is dict else part for part in value]
    return row


def _plain_value(value: dict[str, Any]) -> Any:
    if len(value) != 1:
        return _plain(value)
    ((kind, inner),) = value.items()
    if kind == "$date" and isinstance(inner, dict):
        inner = inner.get("$numberLong", inner)
    if kind == "$date" and not (isinstance(inner, str) and "-" in inner[1:]):
        # Milliseconds, also before 1973, when they have fewer digits.
        return datetime.datetime.fromtimestamp(int(inner) / 1000, datetime.UTC)
    if kind in ("$numberInt", "$numberLong"):
        return int(inner)
    if kind in ("$oid", "$date", "$numberDouble", "$numberDecimal", "$symbol"):
        return inner
    return _plain(value)


def _lenient(line: str) -> Any:
    """The value of what is not quite JSON: with NaN and infinity, or as Python's `repr` writes it; `None` else.

    A comma after it is passed over.
    """
    if line.startswith(_LITERALS):
        return literal(line)
    if (bare := line.rstrip()).endswith("},"):
        try:
            return msgspec.json.decode(bare[:-1])
        except (msgspec.MsgspecError, RecursionError):
            line = bare[:-1]
    if "NaN" not in line and "Infinity" not in line:
        return None
    try:
        return msgspec.json.decode(_NOT_FINITE.sub(_null, line.encode()))
    except (msgspec.MsgspecError, RecursionError):
        return None


def _null(found: re.Match[bytes]) -> bytes:
    return b"null" if found[1] else found[0]


class _Finite:
    """JSON as bytes with `null` in place of NaN and infinity, which Python and JavaScript write but JSON has not."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        """Some bytes; none at the end."""
        while size:
            chunk = self._raw.read(size)
            text = self._rest + chunk
            if chunk and self._rest.startswith(b'"') and b'"' not in chunk:
                self._rest = self._bounded(text)  # a long string goes on
                continue
            end = 0
            for found in _NOT_FINITE.finditer(text):
                end = found.end()
            # A string or a word may go on in the next chunk.
            opened = text.find(b'"', end)
            cut = len(text) if not chunk else opened if opened >= 0 else max(end, len(text) - _WORD)
            self._rest = self._bounded(text[cut:])
            if cut or not chunk:
                has_any = b"NaN" in text or b"Infinity" in text
                return _NOT_FINITE.sub(_null, text[:cut]) if has_any else text[:cut]
        return b""

    @staticmethod
    def _bounded(text: bytes) -> bytes:
        if len(text) > MAX_LINE:
            raise SourceError(f"a string of more than {MAX_LINE:,} bytes: {shown(text[:40])}")
        return text


class _InUtf8:
    """A file of another encoding, read as UTF-8."""

    def __init__(self, raw: IO[bytes], encoding: str) -> None:
        self._raw = raw
        self._decode = codecs.getincrementaldecoder(encoding)().decode

    def read(self, size: int = -1) -> bytes:
        """Some bytes; none at the end."""
        text = ""
        while size and not text:
            chunk = self._raw.read(size)
            text = self._decode(chunk, final=not chunk)
            if not chunk:
                break
        return text.encode()


def opens_array(head: bytes, most_beside: int) -> bool:
    """Whether the beginning of a document opens an array of objects, after at most so many other fields."""
    import ijson

    try:
        return bool(_prefix_of(io.BytesIO(head), most_beside + 1))
    except ijson.JSONError:  # it ends before
        return False


def _prefix_of(file: Any, most_fields: float = math.inf) -> str:
    """Where ijson finds the rows of a document: in its array, its first array of objects, or the document itself."""
    import ijson

    before, fields = "", 0
    for prefix, event, _ in ijson.parse(file, multiple_values=True):
        fields += (prefix, event) == ("", "map_key")
        if fields > most_fields:
            return ""
        if (prefix, event) == ("", "start_array"):
            return "item"
        if event == "start_map" and before and prefix == f"{before}.item":
            return str(prefix)
        before = prefix if event == "start_array" else ""
    return ""


def is_array_of_objects(value: object) -> bool:
    """Whether a value is an array whose first element is an object."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)
