"""`recserve interactions`: import what users did, export it, and look at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer
from rich.console import RenderableType

from recserve_client.cli.console import fail, note, out, progress
from recserve_client.cli.tables import table
from recserve_export.cli import options, reading
from recserve_export.cli.common import (
    OWN_FILES,
    check_folder,
    explained,
    history_rules,
    interactions_at,
    moment,
    position_bar,
    print_refusals,
    refusal_writer,
    say,
    say_json,
    say_what_fits,
    show_report,
    utc_s,
)
from recserve_export.errors import ExportError, MappingError
from recserve_export.files import replacing
from recserve_export.interactions.mapping import (
    InteractionMapping,
    Zeros,
    field_columns,
    named_columns,
    named_types,
    overridden,
    validated,
)
from recserve_export.tabular.options import delimiter_of
from recserve_export.tabular.recipes import read_recipe, read_toml
from recserve_export.tabular.times import TimeUnit
from recserve_server_ext.common.files import write_json
from recserve_server_ext.common.units import DAY_S
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace
from recserve_server_ext.config.interactions import InteractionLimits
from recserve_server_ext.services.model_traces import model_traces

if TYPE_CHECKING:
    from recserve_export.interactions.importer import InteractionReport
    from recserve_export.tabular.opening import Opened
    from recserve_server_ext.interactions.keys import UserKeys
    from recserve_server_ext.interactions.ledger import Ledger
    from recserve_server_ext.interactions.store import InteractionStore, StoreStats

app = typer.Typer(help="Import what users did, export it, and look at it.", no_args_is_help=True)

Format = Annotated[
    Literal["auto", "jsonl", "csv", "parquet", "inter"],
    typer.Option("--format", help="auto: by the ending of the name."),
]
ArePseudonyms = Annotated[bool, typer.Option("--pseudonyms", help="Users are given as pseudonyms already.")]
User = Annotated[str, typer.Argument(help="User id.")]
Named = Annotated[list[str] | None, typer.Option(help="NAME or NAME=COLUMN; repeatable.")]


@app.command("import")
@reading.with_options
def import_(
    source: Annotated[str, typer.Argument(help="File, folder of Parquet, URL of a database, or -.")],
    home: options.Home = DEFAULT_HOME,
    store: options.InteractionsUrl = "",
    read_options: reading.Options = reading.NOTHING_GIVEN,
    null: reading.Nulls = None,
    recipe: reading.Recipe = None,
    mapping: options.MappingFile = None,
    user_field: Annotated[str, typer.Option(help="Column of the user id.")] = "user_id",
    item_field: Annotated[str, typer.Option(help="Column of the item id; empty where there is none.")] = "item_id",
    item_separator: Annotated[str | None, typer.Option(help="Splits several item ids of one value.")] = None,
    text_field: Annotated[str | None, typer.Option(help="Column of a text: in place of an item, or about it.")] = None,
    time_field: Annotated[str, typer.Option(help="Column of the timestamp.")] = "timestamp",
    time: Annotated[
        str | None, typer.Option(help="For a log without times: row for the order of the rows, or one time.")
    ] = None,
    time_unit: Annotated[TimeUnit, typer.Option(help="Of timestamps that are numbers; auto: by their size.")] = "auto",
    time_zone: Annotated[str, typer.Option(help="Of dates and times that name none.")] = "UTC",
    day_first: Annotated[bool, typer.Option("--day-first", help="03/04/2024 is the third of April.")] = False,
    type_field: Annotated[str | None, typer.Option(help="Column of the type.")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Type of every row, as in --type rating.")] = None,
    map_type: Annotated[list[str] | None, typer.Option(help="NAME=TYPE; repeatable.")] = None,
    zeros: Annotated[Zeros, typer.Option(help="What a rating of 0 is; auto: by the scale.")] = "auto",
    field: Named = None,
    context: Named = None,
    pseudonyms: ArePseudonyms = False,
    refusals: options.Refusals = None,
) -> None:
    """Record the interactions of SOURCE; every row that cannot be one is named and counted.

    Exit code 0 when rows were recorded or are there already, 1 when every row was refused, or when no interaction of
    the log names an item of the catalogue.
    """
    from time import time as now

    from recserve_export.interactions.import_log import note_import
    from recserve_export.tabular.opening import Opened

    with explained():
        by_options = InteractionMapping(
            user=user_field,
            timestamp=time_field,
            time=time,
            time_unit=time_unit,
            time_zone=time_zone,
            day_first=day_first,
            item=item_field or None,
            item_separator=delimiter_of(item_separator),
            text=text_field,
            type=type_,
            type_column=type_field,
            types=named_types(map_type or ()),
            zeros=zeros,
            fields=field_columns(field or ()),
            context=named_columns("--context", context or ()),
            nulls=tuple(null) if null else None,
        )
        if mapping is not None and (by_options != InteractionMapping() or recipe is not None):
            raise MappingError(f"--mapping {mapping} holds the whole mapping; leave out the options for fields")
        place = interactions_at(home, store)
        reading.check_refusals(refusals, home, source, mapping, recipe, place)
        if recipe is not None:
            found = [overridden(one, by_options) for one in read_recipe(recipe, "interactions", InteractionMapping)]
        else:
            found = [by_options if mapping is None else read_toml(mapping, InteractionMapping)]
        read = read_options(found[0].read)
        file = Opened(source, read)
        fields = validated(reading.fitting_one(found, file, lambda one: one.columns))
        with _store(home, store, keys=_keys(home, pseudonyms, imports=True), create=True) as opened:
            report = _import(file, fields, opened, refusals, pseudonyms=pseudonyms)
            try:
                note_import(Workspace(home).imports, file.name, report, now())
            except ExportError as error:  # what was recorded is recorded
                note(f"warning: {error}")
            _say_report(report, file.name, refusals)
            if file.grew:
                note(f"{file.name} grew by {file.grew:,} bytes while it was read; import it again to have them")
            say_what_fits(place, Workspace(home).store_at(""))


@app.command("preview-file")
@reading.with_options
def preview_file(
    source: Annotated[str, typer.Argument(help="File, folder of Parquet, URL of a database, or -.")],
    read_options: reading.Options = reading.NOTHING_GIVEN,
    as_json: options.Json = False,
) -> None:
    """Show how SOURCE would be read, and the command that imports it; nothing is changed."""
    from recserve_export.cli.previews import print_preview
    from recserve_export.interactions.suggestion import suggested_import
    from recserve_export.tabular.opening import Opened

    with explained():
        print_preview(Opened(source, read_options()), suggested_import, as_json=as_json)


@app.command()
def export(
    target: Annotated[Path, typer.Argument(help="JSON Lines, CSV, Parquet or RecBole .inter file.")],
    home: options.Home = DEFAULT_HOME,
    store: options.InteractionsUrl = "",
    file_format: Format = "auto",
    user: Annotated[str | None, typer.Option(help="All that is held of this user, as one JSON document.")] = None,
    pseudonyms: ArePseudonyms = False,
) -> None:
    """Write all interactions to TARGET, by pseudonym, or all that is held of one user."""
    from recserve_export.interactions.formats import format_of
    from recserve_export.interactions.writers import write_interactions

    with explained(), _store(home, store, keys=None if user is None else _keys(home, pseudonyms)) as opened:
        if user is None:
            chosen = format_of(target, None if file_format == "auto" else file_format)
            with opened.all() as rows, progress("exporting", None) as bar:
                count = write_interactions(target, bar.track(rows, task_id=bar.task_ids[0]), chosen)
            say(f"{count:,} interactions in {target}")
        else:
            held = opened.export(_pseudonym(user, opened, pseudonyms))
            with replacing(target) as aside:
                write_json(aside, held)
            counts = [f"{len(held[name]):,}" for name in ("interactions", "seen", "answers")]
            say("{} interactions, {} seen items and {} answers in {}".format(*counts, target))
        note(OWN_FILES)


@app.command()
def stats(
    home: options.Home = DEFAULT_HOME,
    store: options.InteractionsUrl = "",
    as_json: options.Json = False,
    html: options.Html = None,
) -> None:
    """Say what the store holds."""
    check_folder(html)
    with explained(), _store(home, store) as opened:
        found = opened.stats()
        if as_json:
            say_json(found)
        show_report("What the interaction store holds", _stats_parts(found), html, quiet=as_json)
        if not store and not as_json:
            say_what_fits(interactions_at(home, store), Workspace(home).store_at(""), is_error=False)


def _stats_parts(found: StoreStats) -> list[RenderableType]:
    """Statistics of the store as lines and a table."""
    parts: list[RenderableType] = [
        f"{found.interactions:,} interactions of {found.users:,} users with {found.items:,} items, "
        f"revision {found.revision}"
    ]
    if found.oldest is not None and found.newest is not None:
        parts.append(f"from {moment(found.oldest)} to {moment(found.newest)}")
    parts.append(f"{found.seen:,} seen items, {found.answers:,} logged answers, {found.erased:,} erased users")
    if found.types:
        types = [(name, f"{count:,}") for name, count in found.types.items()]
        parts.append(table(("type", "interactions"), types, right=("interactions",)))
    return parts


@app.command()
def fit(
    output: Annotated[Path, typer.Argument(help="JSON file for the rules with their statistics.")],
    name: Annotated[str, typer.Option(help="Name of the time range, as in train.")],
    start: Annotated[datetime, typer.Option("--from", help="First moment of the range (UTC).")],
    end: Annotated[datetime, typer.Option("--to", help="First moment after the range (UTC).")],
    home: options.Home = DEFAULT_HOME,
    store: options.InteractionsUrl = "",
    rules: options.Rules = None,
) -> None:
    """Fit the statistics of the rules on the interactions of a time range, and on nothing else."""
    from recserve_export.interactions.preview import fitted_table
    from recserve_server_ext.history.features import fit as fit_rules

    with explained(), _store(home, store) as opened:
        from_s, to_s = utc_s(start), utc_s(end)
        columns = opened.between(from_s, to_s)
        found = fit_rules(columns, history_rules(rules), name, round(from_s * 1e6), round(to_s * 1e6))
        with replacing(output) as aside:
            write_json(aside, found)
        assert found.fitted is not None
        say(f"rules {found.version} in {output}: fitted on {found.fitted.interactions:,} interactions of {name}")
        out.print(fitted_table(found.fitted))


@app.command()
def preview(
    user: User,
    home: options.Home = DEFAULT_HOME,
    store: options.InteractionsUrl = "",
    rules: options.Rules = None,
    limit: Annotated[int, typer.Option(min=1, max=5000, help="Interactions that are read: the newest.")] = 500,
    rows: Annotated[int, typer.Option(min=1, help="Rows of the table at most.")] = 30,
    pseudonyms: ArePseudonyms = False,
    as_json: options.Json = False,
) -> None:
    """Show how each interaction of USER becomes a weight: the factors of a row multiply to its weight."""
    from recserve_export.interactions.preview import preview_of, preview_table
    from recserve_export.interactions.read_sentiment import sentiment_of

    with explained(), _store(home, store, keys=_keys(home, pseudonyms)) as opened:
        chosen = history_rules(rules)
        columns = opened.window([_pseudonym(user, opened, pseudonyms)], limit, has_comments=True)
        if not len(columns.time_us):
            fail(f"no interactions of this user in {opened}")
        found = preview_of(columns, chosen, sentiment_of(Workspace(home)))
        if as_json:
            say_json(found)
            return
        left_out = ", ".join(f"{count:,} {name}" for name, count in found.left_out.items())
        say(
            f"rules {found.rules}: {found.kept:,} of {found.read:,} interactions kept"
            + (f" ({left_out})" if left_out else "")
        )
        out.print(preview_table(found, rows))
        if found.kept > rows:
            note(f"{found.kept - rows:,} more rows; see them with --rows {found.kept}")


@app.command()
def erase(
    user: User,
    home: options.Home = DEFAULT_HOME,
    store: options.InteractionsUrl = "",
    pseudonyms: ArePseudonyms = False,
    erasures: Annotated[
        Path | None, typer.Option(help="Ledger of erasures.", show_default="erasures.jsonl in the home")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove all that is held of USER, for good."""
    from recserve_server_ext.interactions.ledger import Ledger

    ledger = Ledger(erasures or Workspace(home).erasures)
    with explained(), _store(home, store, keys=_keys(home, pseudonyms), ledger=ledger) as opened:
        pseudonym = _pseudonym(user, opened, pseudonyms)
        if not yes:
            typer.confirm(f"Remove all that {opened} holds of this user?", abort=True, err=True)
        found = opened.erase(pseudonym)
        say(
            f"{found.interactions:,} interactions and {found.answers:,} logged answers removed; "
            f"older interactions of this user are refused until {moment(found.refused_until)}"
        )
        for model in model_traces(Workspace(home).spaces, opened, 0.0):
            note(
                f"{model.name} {model.version} may hold a trace until it is trained again: recserve train {model.name}"
            )


@app.command()
def expire(
    home: options.Home = DEFAULT_HOME,
    store: options.InteractionsUrl = "",
    max_age_days: Annotated[float | None, typer.Option(min=0.001, help="Remove what is older.")] = None,
    per_user: Annotated[int | None, typer.Option(min=1, help="Keep this many interactions of a user.")] = None,
) -> None:
    """Remove what is past the limits; made to be run now and then."""
    limits = InteractionLimits()
    if max_age_days is not None:
        limits = msgspec.structs.replace(limits, max_age_s=max_age_days * DAY_S)
    if per_user is not None:
        limits = msgspec.structs.replace(limits, per_user=per_user)
    with explained(), _store(home, store, limits) as opened:
        say(f"{opened.expire():,} rows removed")


@contextmanager
def _store(
    home: Path,
    store: str,
    limits: InteractionLimits | None = None,
    keys: UserKeys | None = None,
    *,
    ledger: Ledger | None = None,
    create: bool = False,
) -> Iterator[InteractionStore]:
    from recserve_server_ext.interactions.store import InteractionStore

    with InteractionStore(interactions_at(home, store), limits, create=create, keys=keys, ledger=ledger) as opened:
        if keys is not None:
            keys.settle(opened.database)
        yield opened


def _keys(home: Path, are_pseudonyms: bool, *, imports: bool = False) -> UserKeys | None:
    """The keys, or `None` where users are named by pseudonym and there is no key; an import makes one for user ids."""
    from recserve_server_ext.interactions.key_file import given_keys, read_pseudonyms
    from recserve_server_ext.interactions.keys import UserKeys

    path = Workspace(home).pseudonym_key
    if are_pseudonyms and not imports and given_keys() is None and not path.exists():
        return None
    return UserKeys(lambda: read_pseudonyms(path, make=imports and not are_pseudonyms))


def _pseudonym(user: str, store: InteractionStore, is_one: bool) -> str:
    return user if is_one or store.keys is None else store.keys.pseudonyms.of(user)


def _import(
    file: Opened, mapping: InteractionMapping, store: InteractionStore, refusals: Path | None, *, pseudonyms: bool
) -> InteractionReport:
    from recserve_export.interactions.importer import import_interactions
    from recserve_export.tabular.formats.documents import CheckedSource, JsonLinesSource, JsonSource

    found = file.source(mapping)
    rows = CheckedSource(found) if isinstance(found, JsonLinesSource | JsonSource) else found
    of_users = None if pseudonyms or store.keys is None else store.keys.pseudonyms
    with refusal_writer(refusals) as write, position_bar(f"importing {file.name}", rows.total) as at:
        return import_interactions(store, rows, mapping, of_users, on_refusal=write, on_progress=at)


def _say_report(report: InteractionReport, name: str, refusals: Path | None) -> None:
    say(report.read_as)
    for line in report.said:
        say(line)
    say(
        f"recorded {report.recorded:,} interactions of {name}, {report.duplicates:,} were there already, "
        f"refused {report.refused:,} (revision {report.revision})"
    )
    if report.refused:
        examples = [(str(one.row), one.reason, one.detail) for one in report.examples]
        print_refusals(report.refusals, ("row", "reason", "detail"), examples)
    if refusals is not None:
        note(f"every refused row is in {refusals}")
    if not report.recorded + report.duplicates + report.refused:
        fail(f"{name} has no rows")
    if not report.recorded + report.duplicates:
        fail("nothing was accepted; check the field mapping against the reasons above")
