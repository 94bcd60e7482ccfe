"""`recserve interactions`: import what users did, export it, and look at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
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
from recserve_export.cli.common import OWN_FILES, explained
from recserve_export.errors import ExportError, MappingError
from recserve_export.interactions.mapping import (
    InteractionMapping,
    field_columns,
    named_columns,
    read_interaction_mapping,
    validated,
)
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace

if TYPE_CHECKING:
    from recserve_export.interactions.importer import InteractionRefusal, InteractionReport
    from recserve_export.interactions.readers import InteractionFormat
    from recserve_server_ext.config.interactions import InteractionLimits
    from recserve_server_ext.interactions.keys import UserKeys
    from recserve_server_ext.interactions.store import InteractionStore

app = typer.Typer(help="Import what users did, export it, and look at it.", no_args_is_help=True)

_BAR = TaskID(0)


class Format(StrEnum):
    """Values of ``--format``."""

    AUTO = "auto"
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"
    INTER = "inter"


class Unit(StrEnum):
    """Values of ``--time-unit``."""

    S = "s"
    MS = "ms"
    US = "us"


HomeOption = Annotated[Path, typer.Option(help="Folder that holds everything recserve makes.")]
StoreOption = Annotated[str | None, typer.Option(help="URL of a PostgreSQL database in place of the file in HOME.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
FormatOption = Annotated[Format, typer.Option("--format", help="auto: by the ending of the name.")]
RulesOption = Annotated[Path | None, typer.Option(help="TOML or JSON file of the rules; none = the built-in ones.")]
PseudonymsOption = Annotated[bool, typer.Option("--pseudonyms", help="Users are given as pseudonyms already.")]
Fields = Annotated[list[str] | None, typer.Option("--field", help="NAME or NAME=COLUMN; once for each.")]
Context = Annotated[list[str] | None, typer.Option("--context", help="NAME or NAME=COLUMN; once for each.")]


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="JSON Lines, CSV, Parquet or RecBole .inter file.")],
    home: HomeOption = DEFAULT_HOME,
    store: StoreOption = None,
    file_format: FormatOption = Format.AUTO,
    mapping: Annotated[Path | None, typer.Option(help="TOML file with the whole mapping.")] = None,
    user_field: Annotated[str, typer.Option(help="Column of the user id.")] = "user_id",
    item_field: Annotated[str, typer.Option(help="Column of the item id; empty = there is none.")] = "item_id",
    text_field: Annotated[str | None, typer.Option(help="Column of a text in place of an item.")] = None,
    time_field: Annotated[str, typer.Option(help="Column of the timestamp.")] = "timestamp",
    time_unit: Annotated[Unit, typer.Option(help="Of timestamps that are numbers.")] = Unit.S,
    type_field: Annotated[str | None, typer.Option(help="Column of the type.")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Type of every row, as in --type rating.")] = None,
    field: Fields = None,
    context: Context = None,
    pseudonyms: PseudonymsOption = False,
    refusals: Annotated[Path | None, typer.Option(help="Write the refused rows to this JSON Lines file.")] = None,
) -> None:
    """Record the interactions of SOURCE; every row that cannot be one is named and counted.

    Exit code 0 when rows were recorded or are there already, 1 when every row was refused.
    """
    with explained():
        by_options = InteractionMapping(
            user=user_field,
            timestamp=time_field,
            time_unit=time_unit.value,
            item=item_field or None,
            text=text_field,
            type=type_,
            type_column=type_field,
            fields=field_columns(field or ()),
            context=named_columns("--context", context or ()),
        )
        if mapping is not None and by_options != InteractionMapping():
            raise MappingError(f"--mapping {mapping} holds the whole mapping; leave out the options for fields")
        fields = validated(by_options) if mapping is None else read_interaction_mapping(mapping)
        chosen = None if file_format is Format.AUTO else cast("InteractionFormat", file_format.value)
        with _store(home, store, keys=_keys(home, pseudonyms, imports=True), create=True) as opened:
            report = _import(source, chosen, fields, opened, refusals, pseudonyms=pseudonyms)
        _print_report(source.name, report)
        if refusals is not None:
            note(f"every refused row is in {refusals}")
        if not report.recorded + report.duplicates:
            fail("nothing was accepted; check the field mapping against the reasons above")


@app.command()
def export(
    target: Annotated[Path, typer.Argument(help="JSON Lines, CSV, Parquet or RecBole .inter file.")],
    home: HomeOption = DEFAULT_HOME,
    store: StoreOption = None,
    file_format: FormatOption = Format.AUTO,
    user: Annotated[str | None, typer.Option(help="All that is held of this user, as one JSON document.")] = None,
    pseudonyms: PseudonymsOption = False,
) -> None:
    """Write all interactions to TARGET, by pseudonym, or all that is held of one user."""
    from recserve_export.interactions.readers import format_of
    from recserve_export.interactions.writers import write_interactions
    from recserve_server_ext.common.files import write_file

    with explained(), _store(home, store, keys=None if user is None else _keys(home, pseudonyms)) as opened:
        if user is not None:
            held = opened.export(_pseudonym(user, opened, pseudonyms))
            try:
                write_file(target, msgspec.json.format(msgspec.json.encode(held)) + b"\n")
            except OSError as error:
                raise ExportError(f"{target} cannot be written: {error}") from error
            counts = [f"{len(held[name]):,}" for name in ("interactions", "seen", "answers")]
            _say("{} interactions, {} seen items and {} answers in {}".format(*counts, target))
            note(OWN_FILES)
            return
        chosen = format_of(target, None if file_format is Format.AUTO else cast("InteractionFormat", file_format.value))
        with opened.all() as rows, progress("exporting", None) as bar:
            count = write_interactions(target, bar.track(rows, task_id=_BAR), chosen)
        _say(f"{count:,} interactions in {target}")
        note(OWN_FILES)


@app.command()
def stats(home: HomeOption = DEFAULT_HOME, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Say what the store holds."""
    with explained(), _store(home, store) as opened:
        found = opened.stats()
        if as_json:
            out.print_json(msgspec.json.encode(found).decode())
            return
        _say(
            f"{found.interactions:,} interactions of {found.users:,} users with {found.items:,} items, "
            f"revision {found.revision}"
        )
        if found.oldest is not None and found.newest is not None:
            _say(f"from {_moment(found.oldest)} to {_moment(found.newest)}")
        _say(f"{found.seen:,} seen items, {found.answers:,} logged answers, {found.erased:,} erased users")
        table = _table("type", "interactions")
        for name, count in found.types.items():
            table.add_row(_plain(name), f"{count:,}")
        if found.types:
            out.print(table)


@app.command()
def fit(
    output: Annotated[Path, typer.Argument(help="JSON file for the rules with their statistics.")],
    name: Annotated[str, typer.Option(help="Name of the time range, as in train.")],
    start: Annotated[datetime, typer.Option("--from", help="First moment of the range (UTC).")],
    end: Annotated[datetime, typer.Option("--to", help="First moment after the range (UTC).")],
    home: HomeOption = DEFAULT_HOME,
    store: StoreOption = None,
    rules: RulesOption = None,
) -> None:
    """Fit the statistics of the rules on the interactions of a time range, and on nothing else."""
    from recserve_export.interactions.preview import fitted_table
    from recserve_server_ext.common.files import write_file
    from recserve_server_ext.config.history import HistoryRules, read_rules
    from recserve_server_ext.history.features import fit as fit_rules

    with explained(), _store(home, store) as opened:
        chosen = HistoryRules() if rules is None else read_rules(rules)
        from_s, to_s = start.replace(tzinfo=UTC).timestamp(), end.replace(tzinfo=UTC).timestamp()
        columns = opened.between(from_s, to_s)
        found = fit_rules(columns, chosen, name, round(from_s * 1e6), round(to_s * 1e6))
        try:
            write_file(output, msgspec.json.format(msgspec.json.encode(found)) + b"\n")
        except OSError as error:
            raise ExportError(f"{output} cannot be written: {error}") from error
        assert found.fitted is not None
        _say(f"rules {found.version} in {output}: fitted on {found.fitted.interactions:,} interactions of {name}")
        out.print(fitted_table(found.fitted))


@app.command()
def preview(
    user: Annotated[str, typer.Argument(help="User id.")],
    home: HomeOption = DEFAULT_HOME,
    store: StoreOption = None,
    rules: RulesOption = None,
    limit: Annotated[int, typer.Option(min=1, max=5000, help="Interactions that are read: the newest.")] = 500,
    rows: Annotated[int, typer.Option(min=1, help="Rows of the table at most.")] = 30,
    pseudonyms: PseudonymsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show how each interaction of USER becomes a weight: the factors of a row multiply to its weight."""
    from recserve_export.interactions.preview import preview_of, preview_table
    from recserve_server_ext.config.history import HistoryRules, read_rules

    with explained(), _store(home, store, keys=_keys(home, pseudonyms)) as opened:
        chosen = HistoryRules() if rules is None else read_rules(rules)
        columns = opened.window([_pseudonym(user, opened, pseudonyms)], limit)
        if not len(columns.time_us):
            fail(f"no interactions of this user in {opened}")
        found = preview_of(columns, chosen)
        if as_json:
            out.print_json(msgspec.json.encode(found).decode())
            return
        left_out = ", ".join(f"{count:,} {name}" for name, count in found.left_out.items())
        _say(
            f"rules {found.rules}: {found.kept:,} of {found.read:,} interactions kept"
            + (f" ({left_out})" if left_out else "")
        )
        out.print(preview_table(found, rows))
        if found.kept > rows:
            note(f"{found.kept - rows:,} more rows; see them with --rows {found.kept}")


@app.command()
def erase(
    user: Annotated[str, typer.Argument(help="User id.")],
    home: HomeOption = DEFAULT_HOME,
    store: StoreOption = None,
    pseudonyms: PseudonymsOption = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove all that is held of USER, for good."""
    with explained(), _store(home, store, keys=_keys(home, pseudonyms)) as opened:
        pseudonym = _pseudonym(user, opened, pseudonyms)
        if not yes:
            typer.confirm(f"Remove all that {opened} holds of this user?", abort=True, err=True)
        found = opened.erase(pseudonym)
        _say(
            f"{found.interactions:,} interactions and {found.answers:,} logged answers removed; "
            f"older interactions of this user are refused until {_moment(found.refused_until)}"
        )


@app.command()
def expire(
    home: HomeOption = DEFAULT_HOME,
    store: StoreOption = None,
    max_age_days: Annotated[float | None, typer.Option(min=0.001, help="Remove what is older.")] = None,
    per_user: Annotated[int | None, typer.Option(min=1, help="Keep this many interactions of a user.")] = None,
) -> None:
    """Remove what is past the limits; made to be run now and then."""
    from recserve_server_ext.common.units import DAY_S
    from recserve_server_ext.config.interactions import InteractionLimits

    limits = InteractionLimits()
    if max_age_days is not None:
        limits = msgspec.structs.replace(limits, max_age_s=max_age_days * DAY_S)
    if per_user is not None:
        limits = msgspec.structs.replace(limits, per_user=per_user)
    with explained(), _store(home, store, limits) as opened:
        _say(f"{opened.expire():,} rows removed")


def _where(home: Path, store: str | None) -> Path | str:
    return Workspace(home).interactions if store is None else store


@contextmanager
def _store(
    home: Path,
    store: str | None,
    limits: InteractionLimits | None = None,
    keys: UserKeys | None = None,
    *,
    create: bool = False,
) -> Iterator[InteractionStore]:
    from recserve_server_ext.interactions.store import InteractionStore

    with InteractionStore(_where(home, store), limits, create=create, keys=keys) as opened:
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
    path: Path,
    file_format: InteractionFormat | None,
    mapping: InteractionMapping,
    store: InteractionStore,
    refusals: Path | None,
    *,
    pseudonyms: bool,
) -> InteractionReport:
    from recserve_export.interactions.importer import import_interactions
    from recserve_export.interactions.readers import open_interactions
    from recserve_export.interactions.rows import InteractionConverter

    rows = open_interactions(path, mapping, file_format)
    of_users = None if pseudonyms or store.keys is None else store.keys.pseudonyms
    convert = InteractionConverter(mapping, of_users, is_textual=rows.is_textual)
    with (
        _refusal_writer(refusals) as write,
        progress(f"importing {path.name}", rows.total) as bar,
    ):
        return import_interactions(
            store, rows, convert, on_refusal=write, on_progress=lambda done: bar.update(_BAR, completed=done)
        )


@contextmanager
def _refusal_writer(path: Path | None) -> Iterator[Callable[[InteractionRefusal], None]]:
    if path is None:
        yield lambda refusal: None
        return
    try:
        file = path.open("wb")
    except OSError as error:
        raise ExportError(f"the refusals cannot be written to {path}: {error}") from error
    with file:
        yield lambda refusal: cast("None", file.write(msgspec.json.encode(refusal) + b"\n"))


def _print_report(name: str, report: InteractionReport) -> None:
    _say(
        f"recorded {report.recorded:,} interactions of {name}, {report.duplicates:,} were there already, "
        f"refused {report.refused:,} (revision {report.revision})"
    )
    if not report.refused:
        return
    reasons = _table("refused because", "rows")
    for reason, count in report.refusals.items():
        reasons.add_row(reason, f"{count:,}")
    examples = _table("row", "reason", "detail")
    for refusal in report.examples:
        examples.add_row(str(refusal.row), refusal.reason, _plain(refusal.detail))
    out.print(reasons, f"The first {len(report.examples)}:", examples)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _say(line: str) -> None:
    out.print(_plain(line), highlight=False, soft_wrap=True)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name in ("rows", "row", "interactions") else "left", overflow="fold")
    return table


def _plain(text: str) -> Text:
    """Text of a source as it can safely go to a terminal: no markup, no control characters."""
    return Text("".join(character if character.isprintable() else ascii(character)[1:-1] for character in text))
