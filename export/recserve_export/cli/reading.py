"""Options of how a source is read, which imports and previews share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar, get_type_hints

import msgspec
import typer

from recserve_export.errors import ExportError, MappingError
from recserve_export.tabular.formats.parquet import parts_of
from recserve_export.tabular.options import Compression, FileFormat, ReadOptions, delimiter_of
from recserve_export.tabular.preview import sample_of
from recserve_export.tabular.recipes import fitting
from recserve_export.tabular.rows import AllColumns
from recserve_server_ext.common.workspace import store_place

if TYPE_CHECKING:
    from recserve_export.tabular.opening import Opened

M = TypeVar("M")
#: Rows that the form of a data set is found in.
_SAMPLE: Final = 100

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
    base: ReadOptions = ReadOptions(),  # noqa: B008 - immutable
    *,
    file_format: Format = "auto",
    delimiter: Delimiter = None,
    quote: Quote = None,
    encoding: Encoding = None,
    compression: Compressed = "auto",
    header: Columns = None,
    sheet: Sheet = None,
    query: Query = None,
) -> ReadOptions:
    """The options given, over those of a mapping.

    Raises:
        MappingError: A delimiter or a name of a column is empty, or a quote is no character.
    """
    if delimiter == "" or (header is not None and "" in header.split(",")):
        raise MappingError("a delimiter and the names of --columns must not be empty")
    if quote is not None and quote != "none" and len(quote) != 1:
        raise MappingError(f"--quote {quote}: write one character, or none")
    given = {
        "format": None if file_format == "auto" else msgspec.convert(file_format, FileFormat),
        "delimiter": delimiter_of(delimiter),
        "quote": "" if quote == "none" else quote,
        "encoding": encoding,
        "compression": None if compression == "auto" else msgspec.convert(compression, Compression),
        "columns": None if header is None else tuple(header.split(",")),
        "sheet": sheet,
        "query": query,
    }
    return msgspec.structs.replace(base, **{name: value for name, value in given.items() if value is not None})


#: The reading options of a command line: gives them over those of a mapping, and raises MappingError as `read_options`.
Options = Callable[..., ReadOptions]
NOTHING_GIVEN: Final[Options] = read_options


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the keyword options of the function `read_options`, in place of its parameter of that name."""
    given = list(inspect.signature(read_options).parameters.values())[1:]
    names = [parameter.name for parameter in given]

    @wraps(command)
    def called(**values: Any) -> None:
        reading = {name: values.pop(name) for name in names}
        command(**values, read_options=partial(read_options, **reading))

    hints = {**get_type_hints(command, include_extras=True), **get_type_hints(read_options, include_extras=True)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        parameters += given if parameter.name == "read_options" else [parameter]
    # Typer reads the annotations of the signature, and evaluates those that are strings by `__wrapped__`.
    evaluated = [one.replace(kind=one.KEYWORD_ONLY, annotation=hints[one.name]) for one in parameters]
    called.__signature__ = inspect.Signature(evaluated)  # type: ignore[attr-defined]
    called.__annotations__ = {one.name: one.annotation for one in evaluated}
    del called.__wrapped__
    return called


def fitting_one(mappings: Sequence[M], opened: Opened, needed: Callable[[M], Iterable[str]]) -> M:
    """The mapping, of several forms of a data set, that fits the columns of the source.

    Args:
        needed: The columns that a mapping cannot do without.
    """
    if len(mappings) == 1:
        return mappings[0]
    names = {name for row in sample_of(opened.source(AllColumns()), _SAMPLE) for name in row}
    return fitting(mappings, [needed(mapping) for mapping in mappings], names)


def check_refusals(refusals: Path | None, home: Path, *others: Path | str | None) -> None:
    """Refuse a file of refusals that is another file of the command: writing it would empty that one.

    Args:
        refusals: The file of refusals, if there is one.
        home: The home, of which no file but one of refusals may be named.
        others: Files, folders, members of archives and URLs that the command reads or writes.

    Raises:
        ExportError: Names both.
    """
    if refusals is None:
        return
    is_in_home = home.resolve() in refusals.resolve().parents
    if is_in_home and refusals.exists() and refusals.suffix != ".jsonl":
        raise ExportError(f"--refusals {refusals} is a file of the home {home}, which would be emptied; name another")
    for name in (name for other in others if other for name in _files_of(store_place(str(other)))):
        is_same = refusals.resolve() == name.resolve() or (
            refusals.exists() and name.exists() and refusals.samefile(name)
        )
        if is_same:
            raise ExportError(f"--refusals {refusals} is {name} itself, which would be emptied; name another file")
    if refusals.is_dir() or not refusals.absolute().parent.is_dir():
        raise ExportError(f"the refusals cannot be written to {refusals}; name a file in a folder that is there")


def _files_of(place: Path | str) -> Iterator[Path]:
    """The files that a source or a store is: itself, what SQLite keeps beside it, its archive, its parts."""
    if isinstance(place, str):
        return
    yield place
    yield from (place.with_name(f"{place.name}{end}") for end in ("-wal", "-shm", "-journal"))
    yield from (folder for folder in place.parents if folder.is_file())
    if place.is_dir():
        yield from parts_of(place)
