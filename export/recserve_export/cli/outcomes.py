"""`recserve outcomes`: what came of recommendations, as a report and as a training set."""

from __future__ import annotations

import time
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import typer

from recserve_client.cli.console import note
from recserve_export.cli import options
from recserve_export.cli.common import (
    OWN_FILES,
    check_folder,
    explained,
    interactions_at,
    say,
    say_json,
    show_report,
    utc_s,
)
from recserve_server_ext.common.workspace import DEFAULT_HOME

if TYPE_CHECKING:
    from recserve_export.outcomes.outcomes import OutcomeRules

app = typer.Typer(help="What came of recommendations: a report, and a training set.", no_args_is_help=True)

Clicks = Annotated[
    list[str] | None,
    typer.Option("--click", help="Type that is a click; repeatable.", show_default="click view listen"),
]
Conversions = Annotated[
    list[str] | None,
    typer.Option("--conversion", help="Type that is a conversion; repeatable.", show_default="purchase like"),
]
Window = Annotated[float, typer.Option("--window-hours", min=0.01, help="Later outcomes do not count.")]
From = Annotated[datetime | None, typer.Option("--from", help="Answers from this moment on (UTC).")]
To = Annotated[datetime | None, typer.Option("--to", help="Answers before this moment (UTC).")]


@app.command()
def report(
    home: options.Home = DEFAULT_HOME,
    store: options.InteractionsUrl = "",
    click: Clicks = None,
    conversion: Conversions = None,
    window_hours: Window = 24.0,
    start: From = None,
    end: To = None,
    lift: Annotated[float, typer.Option(min=0.001, max=10, help="Relative lift that power is stated for.")] = 0.1,
    as_json: options.Json = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the rates into this PNG.")] = None,
    html: options.Html = None,
) -> None:
    """Report impressions, clicks and conversions by strategy, position and variant, and what experiments say."""
    for file in (plot, html):
        check_folder(file)
    from recserve_export.outcomes.report import report as make
    from recserve_export.outcomes.tables import draw, shown
    from recserve_server_ext.interactions.store import InteractionStore

    rules = _rules(click, conversion, window_hours, start, end)
    with explained(), InteractionStore(interactions_at(home, store)) as opened:
        found = make(opened.database, rules, now_s=time.time(), lift=lift)
    if plot is not None:
        draw(found, plot)
    if as_json:
        say_json(found)
    show_report("What came of recommendations", list(shown(found)), html, quiet=as_json, draw=partial(draw, found))


@app.command()
def export(
    target: Annotated[Path, typer.Argument(help="JSON Lines or Parquet file.")],
    home: options.Home = DEFAULT_HOME,
    store: options.InteractionsUrl = "",
    file_format: Annotated[
        Literal["auto", "jsonl", "parquet"], typer.Option("--format", help="auto: by the ending of the name.")
    ] = "auto",
    click: Clicks = None,
    conversion: Conversions = None,
    window_hours: Window = 24.0,
    start: From = None,
    end: To = None,
) -> None:
    """Write a row for every recommended item: user by pseudonym, position, propensity, whether it was clicked."""
    from recserve_export.outcomes.export import export_outcomes, format_of
    from recserve_server_ext.interactions.store import InteractionStore

    rules = _rules(click, conversion, window_hours, start, end)
    with explained(), InteractionStore(interactions_at(home, store)) as opened:
        chosen = format_of(target) if file_format == "auto" else file_format
        count = export_outcomes(opened.database, target, rules, chosen)
    say(f"{count:,} recommended items in {target}")
    note(OWN_FILES)


def _rules(
    click: list[str] | None,
    conversion: list[str] | None,
    window_hours: float,
    start: datetime | None,
    end: datetime | None,
) -> OutcomeRules:
    from recserve_export.outcomes.outcomes import OutcomeRules

    given: dict[str, Any] = {"window_s": window_hours * 3600}
    if click:
        given["clicks"] = frozenset(click)
    if conversion:
        given["conversions"] = frozenset(conversion)
    if start is not None:
        given["start_us"] = round(utc_s(start) * 1e6)
    if end is not None:
        given["end_us"] = round(utc_s(end) * 1e6)
    return msgspec.structs.replace(OutcomeRules(), **given)
