"""`recserve catalogue import|stats|show`, and the app of all `recserve catalogue` commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from recserve_client.cli.console import fail, note, out
from recserve_export.catalogue.mapping import FieldMapping, mapping_from_options, read_mapping
from recserve_export.cli import catalogue_changes, catalogue_encode, options
from recserve_export.cli.common import explained, position_bar, print_refusals, refusal_writer, say, say_json
from recserve_export.errors import MappingError
from recserve_export.tables import table
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace

if TYPE_CHECKING:
    from recserve_export.catalogue.readers import Source
    from recserve_server_ext.catalogue.store import CatalogueStore, ImportRecord

app = typer.Typer(help="Import a catalogue of items, and look at it.", no_args_is_help=True)
for command in (catalogue_changes.upsert, catalogue_changes.delete, catalogue_changes.export, catalogue_encode.encode):
    app.command()(command)

_FILMS = "films"

Attributes = Annotated[
    list[str] | None, typer.Option(help="NAME or NAME:TYPE (str, int, float, bool, list, place); repeatable.")
]
Format = Annotated[
    Literal["auto", "jsonl", "csv", "parquet"], typer.Option("--format", help="auto: by the ending of the name.")
]


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="JSON Lines, CSV or Parquet file, or films (of bokeh-sampledata).")],
    home: options.Home = DEFAULT_HOME,
    store: options.CatalogueUrl = "",
    file_format: Format = "auto",
    mapping: options.MappingFile = None,
    id_field: options.IdField = "id",
    text: options.TextFields = None,
    attribute: Attributes = None,
    columns: options.ColumnNames = None,
    separator: Annotated[str, typer.Option(help="Splits a list that comes as one string.")] = ";",
    available_field: Annotated[str | None, typer.Option(help="Column that says whether an item is available.")] = None,
    refusals: options.Refusals = None,
    force: options.Force = False,
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
        if source == _FILMS:
            opened = _films()
        else:
            fields = (
                read_mapping(mapping)
                if mapping is not None
                else mapping_from_options(
                    id_field=id_field,
                    texts=text or (),
                    attributes=attribute or (),
                    columns=columns or (),
                    separator=separator,
                    available=available_field,
                )
            )
            opened = _opened(Path(source), None if file_format == "auto" else file_format, fields)
        _import(opened, Workspace(home).store_at(store), refusals, force=force)


@app.command()
def stats(home: options.Home = DEFAULT_HOME, store: options.CatalogueUrl = "", as_json: options.Json = False) -> None:
    """Say what the catalogue holds and where it came from."""
    from recserve_export.catalogue.stats import collect_stats

    with explained(), _store(home, store) as opened:
        with position_bar("reading", opened.count()) as at:
            found = collect_stats(opened, at)
        if as_json:
            say_json(found)
            return
        say(f"{found.items:,} items ({found.available:,} available), revision {found.revision}")
        if found.source is not None:
            _print_source(found.source)
        texts = [
            (name, f"{field.weight:g}", f"{field.items:,}", f"{field.mean_characters:.0f}")
            for name, field in found.texts.items()
        ]
        headings = ("text field", "weight", "items", "mean characters")
        out.print(table(headings, texts, right=headings[1:]))
        attributes = [(name, f"{of.items:,}", ", ".join(of.types)) for name, of in found.attributes.items()]
        out.print(table(("attribute", "items", "types"), attributes, right=("items",)))


@app.command()
def show(
    item_id: Annotated[str, typer.Argument(metavar="ID", help="Item id.")],
    home: options.Home = DEFAULT_HOME,
    store: options.CatalogueUrl = "",
    as_json: options.Json = False,
) -> None:
    """Print one item."""
    with explained(), _store(home, store) as opened:
        item = opened.get(item_id)
        if item is None:
            fail(f"no item {item_id!r} among the {opened.count():,} of {opened}")
        if as_json:
            say_json(item)
            return
        fields = {"id": item.id, "available": "yes" if item.available else "no", **item.texts, **item.attributes}
        out.print(
            table(
                ("field", "value"),
                [(name, ", ".join(value) if isinstance(value, list) else str(value)) for name, value in fields.items()],
            )
        )


@dataclass(frozen=True)
class _Opened:
    """A source that is ready to be read, with the mapping for it."""

    name: str
    path: Path
    rows: Source
    mapping: FieldMapping


def _films() -> _Opened:
    from recserve_export.catalogue import films
    from recserve_export.catalogue.mapping import validated

    path = films.films_path()
    return _Opened(_FILMS, path, films.FilmsSource(path), validated(films.MAPPING))


def _opened(path: Path, file_format: Literal["jsonl", "csv", "parquet"] | None, mapping: FieldMapping) -> _Opened:
    from recserve_export.catalogue.readers import open_source

    return _Opened(path.name, path, open_source(path, mapping, file_format), mapping)


def _import(opened: _Opened, path: Path | str, refusals: Path | None, *, force: bool) -> None:
    from recserve_export.catalogue.importer import import_catalogue, up_to_date
    from recserve_export.catalogue.readers import checksum
    from recserve_server_ext.catalogue.store import CatalogueStore

    sha256 = checksum(opened.path)
    with CatalogueStore(path, create=True) as store:
        record = None if force else up_to_date(store, opened.rows.format, opened.mapping, sha256)
        if record is not None:
            say(f"up to date (revision {store.revision}): {record.accepted:,} items of {record.name}")
            if record.refused:
                note(f"{record.refused:,} rows were refused when it was imported; --force imports and names them again")
            return
        with refusal_writer(refusals) as write, position_bar(f"importing {opened.name}", opened.rows.total) as at:
            report = import_catalogue(
                store, opened.rows, opened.mapping, name=opened.name, sha256=sha256, on_refusal=write, on_progress=at
            )
    record = report.record
    say(f"accepted {record.accepted:,} items of {record.name}, refused {record.refused:,} (revision {report.revision})")
    if record.refused:
        examples = [(str(one.row), one.id or "", one.reason.value, one.detail) for one in report.examples]
        print_refusals(record.refusals, ("row", "id", "reason", "detail"), examples)
    if refusals is not None:
        note(f"every refused row is in {refusals}")
    if not record.accepted:
        fail("nothing was accepted, the catalogue is as it was; check the field mapping against the reasons above")


def _store(home: Path, store: str) -> CatalogueStore:
    from recserve_server_ext.catalogue.store import CatalogueStore

    return CatalogueStore(Workspace(home).store_at(store))


def _print_source(record: ImportRecord) -> None:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in record.refusals.items())
    say(
        f"imported from {record.name} (SHA-256 {record.sha256[:12]}): accepted {record.accepted:,}, "
        f"refused {record.refused:,}" + (f" ({reasons})" if reasons else "")
    )
