"""`recserve catalogue`: import the items, and look at them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import msgspec
import typer
from rich import box
from rich.progress import TaskID
from rich.table import Table
from rich.text import Text

from recserve_client.cli.console import fail, note, out, progress
from recserve_export.catalogue.mapping import FieldMapping, mapping_from_options, read_mapping
from recserve_export.cli import catalogue_changes as cli_catalogue_changes
from recserve_export.cli import catalogue_encode as cli_catalogue_encode
from recserve_export.cli.common import explained
from recserve_export.errors import ExportError, MappingError
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace

if TYPE_CHECKING:
    from recserve_export.catalogue.importer import ImportReport
    from recserve_export.catalogue.readers import FileFormat, Source
    from recserve_export.catalogue.rows import Refusal
    from recserve_server_ext.catalogue.store import CatalogueStore, ImportRecord, StoredItem

app = typer.Typer(help="Import a catalogue of items, and look at it.", no_args_is_help=True)

_FILMS = "films"
_BAR = TaskID(0)


class Format(StrEnum):
    """Values of ``--format``."""

    AUTO = "auto"
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


HomeOption = Annotated[Path, typer.Option(help="Folder that holds everything recserve makes.")]
StoreOption = Annotated[str, typer.Option(help="URL of the catalogue store [default: the file in the home].")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
FormatOption = Annotated[Format, typer.Option("--format", help="auto: by the ending of the name.")]
Texts = Annotated[list[str] | None, typer.Option(help="Text field, NAME or NAME=WEIGHT; once for each.")]
Attributes = Annotated[
    list[str] | None, typer.Option(help="NAME or NAME:TYPE (str, int, float, bool, list); once for each.")
]
Columns = Annotated[list[str] | None, typer.Option("--map", help="NAME=COLUMN where the column has another name.")]


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="JSON Lines, CSV or Parquet file, or films (of bokeh-sampledata).")],
    home: HomeOption = DEFAULT_HOME,
    store: StoreOption = "",
    file_format: FormatOption = Format.AUTO,
    mapping: Annotated[Path | None, typer.Option(help="TOML file with the whole field mapping.")] = None,
    id_field: Annotated[str, typer.Option(help="Column of the item id.")] = "id",
    text: Texts = None,
    attribute: Attributes = None,
    columns: Columns = None,
    separator: Annotated[str, typer.Option(help="Splits a list that comes as one string.")] = ";",
    available_field: Annotated[str | None, typer.Option(help="Column that says whether an item is available.")] = None,
    refusals: Annotated[Path | None, typer.Option(help="Write the refused rows to this JSON Lines file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Import even when the catalogue is up to date.")] = False,
) -> None:
    """Replace the catalogue by the items of SOURCE; every row that cannot become an item is named and counted.

    Exit code 0 when items were accepted or the catalogue is up to date, 1 when nothing was accepted.
    """
    with explained():
        has_options = bool(text or attribute or columns or available_field or (id_field, separator) != ("id", ";"))
        if source == _FILMS and (has_options or mapping is not None):
            raise MappingError(f"{_FILMS} has its own field mapping; leave out the options for fields")
        if mapping is not None and has_options:
            raise MappingError(f"--mapping {mapping} holds the whole mapping; leave out the options for fields")
        if source == _FILMS or mapping is not None:
            fields = None if mapping is None else read_mapping(mapping)
        else:
            fields = mapping_from_options(
                id_field=id_field,
                texts=text or (),
                attributes=attribute or (),
                columns=columns or (),
                separator=separator,
                available=available_field,
            )
        _import(_opened(source, file_format, fields), Workspace(home).store_at(store), refusals, force=force)


app.command()(cli_catalogue_changes.upsert)
app.command()(cli_catalogue_changes.delete)
app.command()(cli_catalogue_changes.export)
app.command()(cli_catalogue_encode.encode)


@app.command()
def stats(home: HomeOption = DEFAULT_HOME, store: StoreOption = "", as_json: JsonOption = False) -> None:
    """Say what the catalogue holds and where it came from."""
    from recserve_export.catalogue.stats import collect_stats

    with explained(), _store(home, store) as opened:
        with progress("reading", opened.count()) as bar:
            found = collect_stats(opened, lambda done: bar.update(_BAR, completed=done))
        if as_json:
            out.print_json(msgspec.json.encode(found).decode())
            return
        _say(f"{found.items:,} items ({found.available:,} available), revision {found.revision}")
        if found.source is not None:
            _print_source(found.source)
        fields = _table("text field", "weight", "items", "mean characters")
        for name, field in found.texts.items():
            fields.add_row(_plain(name), f"{field.weight:g}", f"{field.items:,}", f"{field.mean_characters:.0f}")
        attributes = _table("attribute", "items", "types")
        for name, attribute in found.attributes.items():
            attributes.add_row(_plain(name), f"{attribute.items:,}", ", ".join(attribute.types))
        out.print(fields, attributes)


@app.command()
def show(
    item_id: Annotated[str, typer.Argument(metavar="ID", help="Item id.")],
    home: HomeOption = DEFAULT_HOME,
    store: StoreOption = "",
    as_json: JsonOption = False,
) -> None:
    """Print one item."""
    with explained(), _store(home, store) as opened:
        item = opened.get(item_id)
        if item is None:
            fail(f"no item {item_id!r} among the {opened.count():,} of {opened}")
        if as_json:
            out.print_json(msgspec.json.encode(item).decode())
        else:
            _print_item(item)


@dataclass(frozen=True)
class _Opened:
    """A source that is ready to be read, with the mapping for it."""

    name: str
    path: Path
    rows: Source
    mapping: FieldMapping


def _opened(source: str, file_format: Format, mapping: FieldMapping | None) -> _Opened:
    """Open SOURCE; the films come with their own mapping."""
    from recserve_export.catalogue import films
    from recserve_export.catalogue.mapping import validated
    from recserve_export.catalogue.readers import open_source

    if mapping is None:
        path = films.films_path()
        return _Opened(source, path, films.FilmsSource(path), validated(films.MAPPING))
    path = Path(source)
    chosen = None if file_format is Format.AUTO else cast("FileFormat", file_format.value)
    return _Opened(path.name, path, open_source(path, mapping, chosen), mapping)


def _import(opened: _Opened, path: Path | str, refusals: Path | None, *, force: bool) -> None:
    from recserve_export.catalogue.importer import import_catalogue, up_to_date
    from recserve_export.catalogue.readers import checksum
    from recserve_server_ext.catalogue.store import CatalogueStore

    sha256 = checksum(opened.path)
    with CatalogueStore(path, create=True) as store:
        record = None if force else up_to_date(store, opened.rows.format, opened.mapping, sha256)
        if record is not None:
            _say(f"up to date (revision {store.revision}): {record.accepted:,} items of {record.name}")
            if record.refused:
                note(f"{record.refused:,} rows were refused when it was imported; --force imports and names them again")
            return
        with _refusal_writer(refusals) as write, progress(f"importing {opened.name}", opened.rows.total) as bar:
            report = import_catalogue(
                store,
                opened.rows,
                opened.mapping,
                name=opened.name,
                sha256=sha256,
                on_refusal=write,
                on_progress=lambda done: bar.update(_BAR, completed=done),
            )
    _print_report(report)
    if refusals is not None:
        note(f"every refused row is in {refusals}")
    if not report.record.accepted:
        fail("nothing was accepted, the catalogue is as it was; check the field mapping against the reasons above")


def _store(home: Path, store: str) -> CatalogueStore:
    from recserve_server_ext.catalogue.store import CatalogueStore

    return CatalogueStore(Workspace(home).store_at(store))


@contextmanager
def _refusal_writer(path: Path | None) -> Iterator[Callable[[Refusal], None]]:
    if path is None:
        yield lambda refusal: None
        return
    try:
        file = path.open("wb")
    except OSError as error:
        raise ExportError(f"the refusals cannot be written to {path}: {error}") from error

    def write(refusal: Refusal) -> None:
        file.write(msgspec.json.encode(refusal) + b"\n")

    with file:
        yield write


def _print_report(report: ImportReport) -> None:
    record = report.record
    _say(
        f"accepted {record.accepted:,} items of {record.name}, refused {record.refused:,} (revision {report.revision})"
    )
    if not record.refused:
        return
    reasons = _table("refused because", "rows")
    for reason, count in record.refusals.items():
        reasons.add_row(reason, f"{count:,}")
    examples = _table("row", "id", "reason", "detail")
    for refusal in report.examples:
        examples.add_row(str(refusal.row), _plain(refusal.id or ""), refusal.reason.value, _plain(refusal.detail))
    out.print(reasons, f"The first {len(report.examples)}:", examples)


def _print_source(record: ImportRecord) -> None:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in record.refusals.items())
    _say(
        f"imported from {record.name} (SHA-256 {record.sha256[:12]}): accepted {record.accepted:,}, "
        f"refused {record.refused:,}" + (f" ({reasons})" if reasons else "")
    )


def _print_item(item: StoredItem) -> None:
    fields = _table("field", "value")
    fields.add_row("id", _plain(item.id))
    fields.add_row("available", "yes" if item.available else "no")
    for name, value in {**item.texts, **item.attributes}.items():
        fields.add_row(_plain(name), _plain(", ".join(value) if isinstance(value, list) else str(value)))
    out.print(fields)


def _say(line: str) -> None:
    out.print(_plain(line), highlight=False, soft_wrap=True)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        right = name in ("rows", "row", "items", "weight", "mean characters")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    return table


def _plain(text: str) -> Text:
    """Text of a source as it can safely go to a terminal: no markup, no control characters."""
    return Text("".join(character if character.isprintable() else ascii(character)[1:-1] for character in text))
