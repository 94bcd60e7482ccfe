"""`recserve outcomes`: what came of recommendations, as a report and as a training set."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from recserve_client.cli.console import fail, note, out
from recserve_export.cli.common import OWN_FILES, explained
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace, store_place

if TYPE_CHECKING:
    from recserve_export.outcomes.outcomes import OutcomeRules
    from recserve_server_ext.interactions.store import InteractionStore

app = typer.Typer(help="What came of recommendations: a report, and a training set.", no_args_is_help=True)


class Format(StrEnum):
    """Values of ``--format``."""

    AUTO = "auto"
    JSONL = "jsonl"
    PARQUET = "parquet"


HomeOption = Annotated[Path, typer.Option(help="Folder that holds everything recserve makes.")]
StoreOption = Annotated[str | None, typer.Option(help="URL of a PostgreSQL database in place of the file in HOME.")]
ClickOption = Annotated[
    list[str] | None, typer.Option("--click", help="Type that is a click; once for each [default: click view listen].")
]
ConversionOption = Annotated[
    list[str] | None, typer.Option("--conversion", help="Type that is a conversion [default: purchase like].")
]
WindowOption = Annotated[float, typer.Option("--window-hours", min=0.01, help="Later outcomes do not count.")]
FromOption = Annotated[datetime | None, typer.Option("--from", help="Answers from this moment on (UTC).")]
ToOption = Annotated[datetime | None, typer.Option("--to", help="Answers before this moment (UTC).")]


@app.command()
def report(
    home: HomeOption = DEFAULT_HOME,
    store: StoreOption = None,
    click: ClickOption = None,
    conversion: ConversionOption = None,
    window_hours: WindowOption = 24.0,
    start: FromOption = None,
    end: ToOption = None,
    lift: Annotated[float, typer.Option(min=0.001, max=10, help="Relative lift that power is stated for.")] = 0.1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the rates into this PNG.")] = None,
) -> None:
    """Report impressions, clicks and conversions by strategy, position and variant, and what experiments say."""
    if plot is not None and not plot.absolute().parent.is_dir():
        fail(f"cannot write {plot}: there is no folder {plot.parent}", code=2)
    from recserve_export.outcomes.report import report as make
    from recserve_export.outcomes.tables import draw, shown

    rules = _rules(click, conversion, window_hours, start, end)
    with explained(), _store(home, store) as opened:
        found = make(opened.database, rules, now_s=time.time(), lift=lift)
    if plot is not None:
        draw(found, plot)
    if as_json:
        out.print_json(msgspec.json.encode(found).decode())
        return
    for part in shown(found):
        out.print(part, highlight=False, soft_wrap=isinstance(part, str))


@app.command()
def export(
    target: Annotated[Path, typer.Argument(help="JSON Lines or Parquet file.")],
    home: HomeOption = DEFAULT_HOME,
    store: StoreOption = None,
    file_format: Annotated[Format, typer.Option("--format", help="auto: by the ending of the name.")] = Format.AUTO,
    click: ClickOption = None,
    conversion: ConversionOption = None,
    window_hours: WindowOption = 24.0,
    start: FromOption = None,
    end: ToOption = None,
) -> None:
    """Write a row for every recommended item: user by pseudonym, position, propensity, whether it was clicked."""
    from recserve_export.outcomes.export import export_outcomes, open_format

    rules = _rules(click, conversion, window_hours, start, end)
    with explained(), _store(home, store) as opened:
        chosen = open_format(target, file_format.value)
        count = export_outcomes(opened.database, target, rules, chosen)
    out.print(f"{count:,} recommended items in {target}", highlight=False, soft_wrap=True, markup=False)
    note(OWN_FILES)


def _rules(
    click: Sequence[str] | None,
    conversion: Sequence[str] | None,
    window_hours: float,
    start: datetime | None,
    end: datetime | None,
) -> OutcomeRules:
    from recserve_export.outcomes.outcomes import OutcomeRules

    given = {
        "clicks": frozenset(click) if click else None,
        "conversions": frozenset(conversion) if conversion else None,
        "window_s": window_hours * 3600,
        "start_us": None if start is None else _microseconds(start),
        "end_us": None if end is None else _microseconds(end),
    }
    return msgspec.structs.replace(
        OutcomeRules(), **{name: value for name, value in given.items() if value is not None}
    )


def _microseconds(moment: datetime) -> int:
    return round(moment.replace(tzinfo=UTC).timestamp() * 1e6)


def _store(home: Path, store: str | None) -> InteractionStore:
    from recserve_server_ext.interactions.store import InteractionStore

    return InteractionStore(Workspace(home).interactions if store is None else store_place(store))
