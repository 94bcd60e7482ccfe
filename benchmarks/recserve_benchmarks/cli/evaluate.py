"""`recserve evaluate`: how good recommendations are, measured offline on a log of what users did."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from recserve_benchmarks.cli.common import Home, JsonFile, Output, Plot, encoder_of
from recserve_client.cli.console import fail, note
from recserve_export.cli.common import interactions_at
from recserve_export.cli.options import InteractionsUrl, Precision
from recserve_export.cli.reading import Recipe
from recserve_server_ext.common.units import MIB
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace

_MOMENTS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]
#: Interactions above which one seed is enough: ties move a mean over 2,000 users less than the users do.
_MANY: Final = 500_000
app = typer.Typer(help="Measure offline how good recommendations are, on the log of the home or on files.")


@app.callback(invoke_without_command=True)
def evaluate(
    home: Home = DEFAULT_HOME,
    dataset: Annotated[
        Path | None,
        typer.Option(help="Interactions in a file in place of the home's log; of RecBole also a folder."),
    ] = None,
    items: Annotated[
        Path | None, typer.Option(help="Items of the data set.", show_default="the .item file beside it")
    ] = None,
    recipe: Recipe = None,
    store: InteractionsUrl = "",
    precision: Precision = "auto",
    at: Annotated[
        datetime | None,
        typer.Option(help="As of this moment (UTC): what came later is left out.", formats=_MOMENTS),
    ] = None,
    users: Annotated[int, typer.Option(help="Users of each part at most, drawn at random; 0 for all.", min=0)] = 2000,
    memory: Annotated[
        float | None, typer.Option(help="GiB that may be used.", show_default="half of what is free", min=0.0)
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Seeds that break ties of the leave-one-out test.",
            show_default=f"3, 1 above {_MANY:,} interactions",
            min=1,
            max=20,
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The last two cuts by time, without slow trainings.")] = False,
    system: Annotated[list[str] | None, typer.Option(help="Only this system; repeatable (all if none).")] = None,
    json_file: JsonFile = None,
    html: Annotated[Path | None, typer.Option(help="Write one page with everything.")] = None,
    plot: Plot = None,
) -> None:
    """Rank all items for users of the log: baselines, and every registered strategy as it is served.

    Settings are chosen on validation. What is best for users of each activity is written to the home, where the
    strategy auto reads it, unless files or a moment are evaluated.
    """
    output = Output(json_file, plot, html)
    if (items is not None or recipe is not None) and dataset is None:
        fail("--items and --recipe belong to --dataset", code=2)
    with output.measuring() as show:
        import msgspec

        from recserve_benchmarks.evaluation import memory as bound
        from recserve_benchmarks.evaluation import run
        from recserve_benchmarks.evaluation.log import data
        from recserve_benchmarks.evaluation.reporting import page, report
        from recserve_benchmarks.evaluation.served import trainings_of
        from recserve_benchmarks.evaluation.split import CUTS
        from recserve_benchmarks.evaluation.systems import named
        from recserve_server_ext.common.files import write_json
        from recserve_server_ext.encoder.text_encoder import TextEncoder

        chosen, workspace = named(system or [], quick=quick), Workspace(home)
        memory_bytes = bound.default_bound() if memory is None else round(memory * 1024 * MIB)
        if dataset is None:
            found = data.of_home(workspace, interactions_at(home, store), show)
        else:
            found = data.of_files(dataset, items, TextEncoder(encoder_of(home, precision)[1]), show, recipe)
        if at is not None:
            found = found.as_of(at.replace(tzinfo=UTC).timestamp())
        if seeds is None:
            seeds = 1 if len(found.columns.time_us) > _MANY else 3
        plan = run.Plan(seeds=range(seeds), most_users=users or None, memory_bytes=memory_bytes)
        if quick:
            plan = replace(plan, protocols=("time",), cuts=CUTS[-2:])
        evaluation = run.evaluate(found, chosen, plan, show)
    results = msgspec.to_builtins(evaluation)
    output.write(results, report.parts(results), report.draw)
    if html is not None:
        page.write_page(results, html)
    if dataset is None and at is None and not system:
        write_json(workspace.evaluation, evaluation)
        note(f"what is best is in {workspace.evaluation}: the strategy auto reads it")
        for name in trainings_of(evaluation.chosen):
            note(f"it needs: recserve train {name}")
