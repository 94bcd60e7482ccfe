"""Opening a source by what it is: a file of any format, a folder, a pipe, or a database by URL."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Final

from recserve_export.errors import SourceError
from recserve_export.tabular.encodings import guess_encoding
from recserve_export.tabular.formats.delimited import DelimitedSource
from recserve_export.tabular.formats.documents import JsonLinesSource, JsonSource, is_array_of_objects, opens_array
from recserve_export.tabular.formats.parquet import ParquetSource, check_folder, parts_checksum
from recserve_export.tabular.formats.sheets import SheetSource
from recserve_export.tabular.formats.sql import SqlSource
from recserve_export.tabular.options import ENDINGS, FileFormat, ReadOptions
from recserve_export.tabular.rows import Columns, Source
from recserve_export.tabular.streams import Stream
from recserve_export.tabular.values import literal

_URL: Final = re.compile(r"[a-z][a-z0-9+]+://")
_HEAD: Final = 1 << 16
#: Most bytes of a character that is one in UTF-8.
_WIDEST: Final = 4
#: Most fields of a document whose rows are in one of them.
_MOST_BESIDE: Final = 4
_MARKS: Final = b"\xef\xbb\xbf \t\r\n"
_CONTENT: Final[dict[bytes, FileFormat]] = {
    b"PAR1": "parquet",
    b"SQLite format 3\0": "sql",
    b"PK\x03\x04": "xlsx",
    b"\xd0\xcf\x11\xe0": "xlsx",
}
#: An object of JSON, or an array of them; a heading may begin with a bracket as well.
_OBJECT: Final = re.compile(rb'\[?\s*\{\s*["}]')
#: Formats by name and by content where the content is right.
_SAID_BY_CONTENT: Final = {("csv", "json"), ("csv", "jsonl"), ("csv", "parquet"), ("csv", "xlsx"), ("jsonl", "json")}
#: How files begin that hold no table.
_UNREAD: Final = {
    b"ustar": "an archive (tar)",
    b"7z\xbc\xaf\x27\x1c": "an archive (7z)",
    b"Rar!\x1a\x07": "an archive (RAR)",
    b"%PDF-": "a PDF",
    b"\x89PNG": "a picture",
    b"<!DOCTYPE": "a web page",
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"<HTML": "a web page",
    b"<?xml": "XML",
    b"ARROW1\0": "an Arrow file",
    b"Obj\x01": "an Avro file",
}
#: Where they say so, unless at the beginning.
_MAGIC_AT: Final = {b"ustar": 257}


class Opened:
    """A source that is open: its bytes, and how rows come from them.

    Attributes:
        name: What it is called.
        where: The file, or the URL.
        format: How it is read.
    """

    def __init__(self, where: str | Path, options: ReadOptions | None = None) -> None:
        """Find the source and its format.

        Raises:
            SourceError: There is no such source, or nothing tells its format.
        """
        options = options or ReadOptions()
        self.where = str(where)
        self._options = options
        self._stream: Stream | None = None
        path = Path(where)
        self.format: FileFormat = options.format or "csv"
        self.name = path.name
        if _URL.match(self.where) or (options.query is not None and path.suffix not in ENDINGS):
            self.format = "sql"
        elif path.is_dir():
            check_folder(path)
            self.format = "parquet"
        else:
            self._stream = Stream(where, options.compression)
            self.name = self._stream.name
            self.format = options.format or _format_of(self._stream)
            if self.format == "sql":
                self._stream = None
        if self.format == "sql" and not _URL.match(self.where):
            self.where = f"sqlite:///{path.resolve()}"

    @property
    def grew(self) -> int:
        """Bytes that the file has got since it was opened."""
        return 0 if self._stream is None else self._stream.grew

    def checksum(self) -> str:
        """Hex SHA-256 of the source; empty for a database, which has none."""
        if self._stream is not None:
            return self._stream.sha256()
        return "" if self.format == "sql" else parts_checksum(Path(self.where))

    @property
    def identity(self) -> str:
        """What decides how bytes become rows: the format and what was asked for."""
        return f"{self.format}{self._options.identity}"

    def source(self, wanted: Columns) -> Source:
        """The rows of the wanted columns.

        Raises:
            SourceError: The source cannot be read.
        """
        import msgspec

        options = msgspec.structs.replace(self._options, format=self.format)
        if self.format == "sql":
            return SqlSource(self.where, wanted, options)
        if self._stream is None:
            return ParquetSource(Path(self.where), wanted)
        if self.format == "parquet":
            return ParquetSource(self._stream, wanted)
        if self.format == "xlsx":
            return SheetSource(self._stream, wanted, options)
        if self.format == "jsonl":
            return JsonLinesSource(self._stream, wanted, options)
        if self.format == "json":
            return JsonSource(self._stream, wanted, options)
        return DelimitedSource(self._stream, wanted, options)


def _format_of(stream: Stream) -> FileFormat:
    """The format by the ending of the name, unless the content says otherwise; else by what the bytes look like."""
    ending = ENDINGS.get(Path(stream.inner_name).suffix.lower())
    if ending == "parquet":
        return ending
    head = stream.head(_HEAD)
    for magic, what in _UNREAD.items():
        if head[_MAGIC_AT.get(magic, 0) :].startswith(magic):
            raise SourceError(f"{stream.where} is {what}, which is not read; unpack or save it as a table first")
    by_content = _by_content(head)
    text = head.strip(_MARKS)
    is_sure = by_content not in ("json", "jsonl") or _OBJECT.match(text) is not None
    # An object in one line is a line of JSON Lines, whatever is in it.
    is_sure = is_sure and (ending != "jsonl" or text.startswith(b"[") or b"\n" in text)
    if ending is None or (is_sure and (ending, by_content) in _SAID_BY_CONTENT):
        if by_content is None:
            why = "is empty, and its name does not" if not text else "does not by its name, and not by its content,"
            raise SourceError(f"{stream.where} {why} tell its format; add --format")
        return by_content
    if ending == "inter" and not _is_recbole(head):
        return "csv"
    if ending == "xlsx" and by_content != "xlsx":
        return by_content or ending
    return ending


def _by_content(head: bytes) -> FileFormat | None:
    """The format that the first bytes look like; `None` where they say nothing."""
    for magic, found in _CONTENT.items():
        if head.startswith(magic):
            return found
    if b"\0" in head:
        encoding = guess_encoding(io.BytesIO(head)).name
        if not encoding.startswith(("utf-16", "utf-32")):
            return None
        head = head.decode(encoding, errors="ignore").encode()
    text = head.lstrip(_MARKS)
    if not text:
        return None
    if text.startswith(b"["):
        return "json"
    if text.startswith(b"{"):
        return "json" if _is_document(text) else "jsonl"
    return "csv"


def _is_recbole(head: bytes) -> bool:
    """Whether the first line has headings such as `item_id:token` between tabs; MovieLens 100k has an `u.item`, too."""
    first = head.split(b"\n", 1)[0].removeprefix(_MARKS[:3]).strip()
    return not first or all(b":" in name for name in first.split(b"\t"))


def _is_document(text: bytes) -> bool:
    """Whether an object is a whole document: it goes on over lines, or is alone and little but an array of objects."""
    first, *others = text.splitlines()
    if others:
        return not first.rstrip(b", \t\r").endswith(b"}")
    if len(text) >= _HEAD // _WIDEST:
        return opens_array(first, _MOST_BESIDE)
    found = literal(first.decode(errors="replace"))
    arrays = [one for one in found.values() if is_array_of_objects(one)] if isinstance(found, dict) else []
    return len(arrays) == 1 and len(found) <= _MOST_BESIDE
