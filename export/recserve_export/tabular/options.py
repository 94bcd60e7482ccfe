"""How a source is to be read; what is not given is guessed."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

FileFormat = Literal["jsonl", "json", "csv", "parquet", "inter", "xlsx", "sql"]
Compression = Literal["none", "gzip", "bz2", "zstd", "xz", "zip"]

#: Format by the ending of a name.
ENDINGS: Final[dict[str, FileFormat]] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".inter": "inter",
    ".item": "inter",
    ".user": "inter",
    ".xlsx": "xlsx",
    ".xlsm": "xlsx",
    ".xls": "xlsx",
    ".ods": "xlsx",
}
_ESCAPES: Final = {"tab": "\t", "\\t": "\t", "space": " ", "comma": ",", "semicolon": ";", "pipe": "|"}


class ReadOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a source is to be read.

    Attributes:
        format: Format of the file; `None` for guessed.
        delimiter: What stands between two values of delimited text, of any length; `None` for guessed.
        quote: The quote character of delimited text; empty for none; `None` for guessed.
        encoding: Encoding of text; `None` for guessed.
        compression: Compression of the file; `None` for guessed.
        columns: Names of the columns of delimited text or of a sheet without a header line.
        sheet: Name of the sheet of a workbook; `None` for the first.
        query: Query or table of a database.
    """

    format: FileFormat | None = None
    delimiter: str | None = None
    quote: str | None = None
    encoding: str | None = None
    compression: Compression | None = None
    columns: tuple[str, ...] = ()
    sheet: str | None = None
    query: str | None = None

    @property
    def identity(self) -> str:
        """What was asked for, empty where all is guessed; part of what tells two imports apart."""
        return msgspec.json.encode(self).decode().removeprefix("{").removesuffix("}")


def delimiter_of(option: str | None) -> str | None:
    """The delimiter of an option: `tab`, `space`, `comma`, `semicolon` and `pipe` have names."""
    return None if option is None else _ESCAPES.get(option, option)
