"""`recserve catalogue import|stats|show`, and the app of all `recserve catalogue` commands."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import RenderableType

from recserve_client.cli.console import fail, note, out
from recserve_client.cli.tables import table
from recserve_export.catalogue.mapping import FieldMapping, mapping_from_options, validated
from recserve_export.cli import options, reading
from recserve_export.cli.catalogue import changes, encode
from recserve_export.cli.common import (
    check_folder,
    explained,
    position_bar,
    print_refusals,
    refusal_writer,
    say,
    say_json,
    say_what_fits,
    show_report,
)
from recserve_export.cli.previews import print_preview
from recserve_export.errors import MappingError
from recserve_export.tabular.preview import read_as
from recserve_export.tabular.recipes import read_recipe, read_toml
from recserve_export.tabular.rows import Source
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace

if TYPE_CHECKING:
    from recserve_export.catalogue.stats import CatalogueStats
    from recserve_server_ext.catalogue.store import CatalogueStore, ImportRecord

app = typer.Typer(help="Import a catalogue of items, and look at it.", no_args_is_help=True)
for command in (changes.upsert, changes.delete, changes.export, encode.encode):
    app.command()(command)

_FILMS = "films"

Attributes = Annotated[
    list[str] | None, typer.Option(help="NAME or NAME:TYPE (str, int, float, bool, list, place); repeatable.")
]


@app.command("import")
@reading.with_options
def import_(
    source: Annotated[str, typer.Argument(help="File, folder of Parquet, URL of a database, - or films.")],
    home: options.Home = DEFAULT_HOME,
    store: options.CatalogueUrl = "",
    read_options: reading.Options = reading.NOTHING_GIVEN,
    null: reading.Nulls = None,
    recipe: reading.Recipe = None,
    mapping: options.MappingFile = None,
    id_field: options.IdField = "id",
    text: options.TextFields = None,
    attribute: Attributes = None,
    columns: options.ColumnNames = None,
    separator: Annotated[
        str | None, typer.Option(help="Splits a list that comes as one string.", show_default="guessed")
    ] = None,
    available_field: Annotated[str | None, typer.Option(help="Column that says whether an item is available.")] = None,
    refusals: options.Refusals = None,
    force: options.Force = False,
) -> None:
    """Replace the catalogue by the items of SOURCE; every row that cannot become an item is named and counted.

    Exit code 0 when items were accepted or the catalogue is up to date, 1 when nothing was accepted, or when no
    interaction of the log names an item of it.
    """
    from recserve_export.tabular.opening import Opened

    with explained():
        given = (text, attribute, columns, available_field, separator, null)
        has_options = any(given) or id_field != "id"
        if source == _FILMS and (has_options or mapping is not None or recipe is not None):
            raise MappingError(f"{_FILMS} has its own field mapping; leave out the options for fields")
        if mapping is not None and (has_options or recipe is not None):
            raise MappingError(f"--mapping {mapping} holds the whole mapping; leave out the options for fields")
        place = Workspace(home).store_at(store)
        reading.check_refusals(refusals, home, source, mapping, recipe, place)
        if source == _FILMS:
            from recserve_export.catalogue.films import films_path

            reading.check_refusals(refusals, home, films_path())
            _import(_films(), place, refusals, home=home, force=force)
            return
        from_options = partial(
            mapping_from_options,
            id_field=id_field,
            texts=text or (),
            attributes=attribute or (),
            columns=columns or (),
            separator=separator,
            available=available_field,
        )
        if recipe is not None:
            found = read_recipe(recipe, "catalogue", FieldMapping)
        else:
            found = [read_toml(mapping, FieldMapping) if mapping is not None else from_options()]
        read = read_options(found[0].read)
        opened = Opened(source, read)
        fields = reading.fitting_one(found, opened, lambda one: (one.id, *one.texts))
        if recipe is not None and has_options:
            fields = _overridden(fields, from_options(texts=text or list(fields.texts)))
        fields = msgspec.structs.replace(fields, read=read, nulls=tuple(null) if null else fields.nulls)
        fields = validated(fields)
        one = _Opened(opened.name, opened.source(fields), fields, opened.checksum(), opened.identity)
        _import(one, place, refusals, home=home, force=force)
        if opened.grew:
            note(f"{opened.name} grew by {opened.grew:,} bytes while it was read; import it again to have them")


@app.command()
@reading.with_options
def preview(
    source: Annotated[str, typer.Argument(help="File, folder of Parquet, URL of a database, or -.")],
    read_options: reading.Options = reading.NOTHING_GIVEN,
    as_json: options.Json = False,
) -> None:
    """Show how SOURCE would be read, and the command that imports it; nothing is changed."""
    from recserve_export.catalogue.suggestion import suggested_import
    from recserve_export.tabular.opening import Opened

    with explained():
        print_preview(Opened(source, read_options()), suggested_import, as_json=as_json)


@app.command()
def stats(
    home: options.Home = DEFAULT_HOME,
    store: options.CatalogueUrl = "",
    as_json: options.Json = False,
    html: options.Html = None,
) -> None:
    """Say what the catalogue holds and where it came from."""
    from recserve_export.catalogue.stats import collect_stats

    check_folder(html)
    with explained(), _store(home, store) as opened:
        with position_bar("reading", opened.count()) as at:
            found = collect_stats(opened, at)
        if as_json:
            say_json(found)
        show_report("What the catalogue holds", _stats_parts(found), html, quiet=as_json)
        if not store and not as_json:
            say_what_fits(Workspace(home).interactions, Workspace(home).store_at(store), is_error=False)


def _stats_parts(found: CatalogueStats) -> list[RenderableType]:
    """Statistics of the catalogue as lines and tables."""
    parts: list[RenderableType] = [f"{found.items:,} items ({found.available:,} available), revision {found.revision}"]
    if found.source is not None:
        parts.append(_source_line(found.source))
    texts = [
        (name, f"{field.weight:g}", f"{field.items:,}", f"{field.mean_characters:.0f}")
        for name, field in found.texts.items()
    ]
    headings = ("text field", "weight", "items", "mean characters")
    rows = [
        (name, f"{of.items:,}", ", ".join(of.types), f"{of.distinct:,}", ", ".join(value[:20] for value in of.most))
        for name, of in found.attributes.items()
    ]
    columns = ("attribute", "items", "types", "distinct", "most frequent")
    return [
        *parts,
        table(headings, texts, right=headings[1:]),
        table(columns, rows, right=("items", "distinct")),
    ]


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
    rows: Source
    mapping: FieldMapping
    sha256: str
    identity: str


def _films() -> _Opened:
    from recserve_export.catalogue import films
    from recserve_export.tabular.streams import Stream

    path = films.films_path()
    return _Opened(_FILMS, films.FilmsSource(path), validated(films.MAPPING), Stream(path).sha256(), _FILMS)


def _overridden(recipe: FieldMapping, given: FieldMapping) -> FieldMapping:
    """A recipe with what the options name in its place."""
    texts = {}
    for name, field in given.texts.items():
        known = recipe.texts.get(name, field)
        weight = known.weight if field.weight == 1 else field.weight
        texts[name] = msgspec.structs.replace(known, column=field.column or known.column, weight=weight)
    return msgspec.structs.replace(
        recipe,
        id=given.id if given.id != "id" else recipe.id,
        texts=texts,
        attributes={**recipe.attributes, **given.attributes},
        available=given.available or recipe.available,
    )


def _import(opened: _Opened, path: Path | str, refusals: Path | None, *, home: Path, force: bool) -> None:
    from recserve_export.catalogue.importer import import_catalogue, up_to_date
    from recserve_server_ext.catalogue.store import CatalogueStore

    with CatalogueStore(path, create=True) as store:
        record = None if force else up_to_date(store, opened.identity, opened.mapping, opened.sha256)
        if record is not None:
            say(f"up to date (revision {store.revision}): {record.accepted:,} items of {record.name}")
            if record.refused:
                note(f"{record.refused:,} rows were refused when it was imported; --force imports and names them again")
            return
        head, before = store.head(), store.source()
        if before is not None and before.sha256 == opened.sha256 and head.revision != head.imported_at:
            say(f"{head.revision - head.imported_at:,} changes since the last import are replaced by the file")
        with refusal_writer(refusals) as write, position_bar(f"importing {opened.name}", opened.rows.total) as at:
            report = import_catalogue(
                store,
                opened.rows,
                opened.mapping,
                name=opened.name,
                sha256=opened.sha256,
                identity=opened.identity,
                on_refusal=write,
                on_progress=at,
            )
        record = report.record
        say(read_as(opened.rows, report.columns, record.accepted + record.refused))
        for line in report.said:
            say(line)
        say(
            f"accepted {record.accepted:,} items of {record.name}, refused {record.refused:,} "
            f"(revision {report.revision})"
        )
        if record.refused:
            examples = [(str(one.row), one.id or "", one.reason.value, one.detail) for one in report.examples]
            print_refusals(record.refusals, ("row", "id", "reason", "detail"), examples)
        if refusals is not None:
            note(f"every refused row is in {refusals}")
        if not record.accepted + record.refused:
            fail("it has no rows, the catalogue is as it was")
        if not record.accepted:
            fail("nothing was accepted, the catalogue is as it was; check the field mapping against the reasons above")
        say_what_fits(Workspace(home).interactions, path)


def _store(home: Path, store: str) -> CatalogueStore:
    from recserve_server_ext.catalogue.store import CatalogueStore

    return CatalogueStore(Workspace(home).store_at(store))


def _source_line(record: ImportRecord) -> str:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in record.refusals.items())
    return (
        f"imported from {record.name} (SHA-256 {record.sha256[:12]}): accepted {record.accepted:,}, "
        f"refused {record.refused:,}" + (f" ({reasons})" if reasons else "")
    )
