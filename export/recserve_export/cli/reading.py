"""Options of how a source is read, which imports and previews share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from recserve_export.errors import ExportError, MappingError
from recserve_export.tabular.options import Compression, FileFormat, ReadOptions, delimiter_of

Format = Annotated[
    Literal["auto", "jsonl", "json", "csv", "parquet", "inter", "xlsx", "sql"],
    typer.Option("--format", help="auto: by the ending of the name, or what the content looks like."),
]
Delimiter = Annotated[
    str | None,
    typer.Option(
        "--delimiter", help="Between two values: a character, `tab`, or more as in `::`.", show_default="guessed"
    ),
]
Quote = Annotated[str | None, typer.Option("--quote", help="Quote character, or `none`.", show_default="guessed")]
Encoding = Annotated[
    str | None, typer.Option("--encoding", help="As in utf-8, utf-16, latin-1, cp1252.", show_default="guessed")
]
Compressed = Annotated[
    Literal["auto", "none", "gzip", "bz2", "zstd", "xz", "zip"],
    typer.Option("--compression", help="auto: by the first bytes."),
]
Nulls = Annotated[
    list[str] | None,
    typer.Option("--null", help="Text that stands for a missing value; repeatable.", show_default="the usual ones"),
]
Columns = Annotated[
    str | None, typer.Option("--columns", help="Names of the columns, with commas, where there is no header line.")
]
Sheet = Annotated[str | None, typer.Option("--sheet", help="Sheet of a workbook.", show_default="the first")]
Query = Annotated[str | None, typer.Option("--query", help="Table or query of a database.")]
Recipe = Annotated[str | None, typer.Option("--recipe", help="Mapping for a public data set, by name, or a TOML file.")]


def read_options(
    base: ReadOptions,
    *,
    file_format: str = "auto",
    delimiter: str | None = None,
    quote: str | None = None,
    encoding: str | None = None,
    compression: str = "auto",
    columns: str | None = None,
    sheet: str | None = None,
    query: str | None = None,
) -> ReadOptions:
    """The options given, over those of a mapping.

    Raises:
        MappingError: A delimiter or a name of a column is empty, or a quote is no character.
    """
    if delimiter == "" or (columns is not None and "" in columns.split(",")):
        raise MappingError("a delimiter and the names of --columns must not be empty")
    if quote is not None and quote != "none" and len(quote) != 1:
        raise MappingError(f"--quote {quote}: write one character, or none")
    given = {
        "format": None if file_format == "auto" else msgspec.convert(file_format, FileFormat),
        "delimiter": delimiter_of(delimiter),
        "quote": "" if quote == "none" else quote,
        "encoding": encoding,
        "compression": None if compression == "auto" else msgspec.convert(compression, Compression),
        "columns": None if columns is None else tuple(columns.split(",")),
        "sheet": sheet,
        "query": query,
    }
    return msgspec.structs.replace(base, **{name: value for name, value in given.items() if value is not None})


def check_refusals(refusals: Path | None, *others: Path | str | None) -> None:
    """Refuse a file of refusals that is another file of the command: writing it would empty that one.

    Raises:
        ExportError: Names both.
    """
    if refusals is None:
        return
    for other in others:
        path = None if other is None or "://" in str(other) else Path(other)
        names = (
            () if path is None else (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal")))
        )
        for name in names:
            is_same = refusals.resolve() == name.resolve() or (
                refusals.exists() and name.exists() and refusals.samefile(name)
            )
            if is_same:
                raise ExportError(f"--refusals {refusals} is {name} itself, which would be emptied; name another file")
    if refusals.is_dir() or not refusals.absolute().parent.is_dir():
        raise ExportError(f"the refusals cannot be written to {refusals}; name a file in a folder that is there")
