"""`recserve bench retrieve`: the command; see `recserve_benchmarks.retrieve.bench`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer
from rich.console import RenderableType

from recserve_benchmarks.cli.output import check_folders, print_results, steps, write_json
from recserve_client.cli.console import fail
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace

if TYPE_CHECKING:
    from recserve_benchmarks.retrieve.bench import Plan

#: Real texts that the films have, at most.
_REAL = 65_000
_QUICK = 10_000


def retrieve(
    home: Annotated[Path, typer.Option(help="Folder with encoder and catalogue.")] = DEFAULT_HOME,
    precision: Annotated[str, typer.Option(help="auto, fp32, int8 or int8-fast.")] = "auto",
    items: Annotated[
        int | None,
        typer.Option(
            help="Items; beyond 65,000 only growth is measured with them.",
            min=1000,
            show_default=f"{_REAL:,}; {_QUICK:,} with --quick",
        ),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(help="Rounds; medians are over them.", min=1, show_default="5; 1 with --quick")
    ] = None,
    swap: Annotated[bool, typer.Option(help="Measure a swap under load too.")] = True,
    graph_budget: Annotated[
        float, typer.Option(help="Growth: leave out a graph that would take longer to build, seconds.", min=0)
    ] = 600.0,
    quick: Annotated[bool, typer.Option("--quick", help="Few of all: to try it, not to quote it.")] = False,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw recall against speed into this PNG.")] = None,
) -> None:
    """Measure the engines on user vectors, our retrieval over them, a swap under load, and growth."""
    check_folders(json_file, plot)
    try:
        from recserve_benchmarks.errors import BenchmarkError
        from recserve_benchmarks.retrieve.bench import Plan
        from recserve_client.errors import RecserveError
        from recserve_server_ext.common.errors import ServerError
    except ModuleNotFoundError as error:
        fail(f"recserve bench needs the module {error.name!r}: pip install 'recserve[serve,export,bench]'")
    plan = Plan(
        items=items or (_QUICK if quick else _REAL),
        rounds=rounds or (1 if quick else 5),
        users=50 if quick else 500,
        swap=swap,
        graph_budget_s=graph_budget,
        seed=seed,
    )
    try:
        results = _measure(Workspace(home), precision, plan, quick, json_file)
    except (ServerError, BenchmarkError, RecserveError) as error:
        fail(str(error))
    _report(results, json_file, plot)


def _measure(workspace: Workspace, precision: str, plan: Plan, quick: bool, json_file: Path | None) -> dict[str, Any]:
    from recserve_benchmarks.harness.corpus import encoded_texts
    from recserve_benchmarks.harness.report import machine
    from recserve_benchmarks.retrieve.bench import RetrieveBench
    from recserve_server_ext.encoder.selection import choose_encoder
    from recserve_server_ext.encoder.text_encoder import TextEncoder

    folder = choose_encoder(workspace, cast("Literal['auto', 'fp32', 'int8', 'int8-fast']", precision))
    with steps() as done:
        texts = encoded_texts(workspace, folder, min(plan.items, _REAL), done)
        items = min(plan.items, len(texts.vectors))
        setup = {**machine(), "items": items, "encoder": texts.encoder, "plan": asdict(plan), "quick": quick}

        def keep(results: dict[str, Any]) -> None:
            if json_file is not None:
                write_json({**results, "setup": setup}, json_file)

        results = RetrieveBench(texts, TextEncoder(folder), plan, done).run(keep)
    return {**results, "setup": setup}


def _report(results: dict[str, Any], json_file: Path | None, plot: Path | None) -> None:
    from recserve_benchmarks.harness.report import targets_table
    from recserve_benchmarks.retrieve.plot import draw
    from recserve_benchmarks.retrieve.report import comparison_table, curves_table, notes, scale_table, targets

    setup = results["setup"]
    title = f"{setup['cpu']}, {setup['int8_arithmetic']}, {setup['cores']} cores; {setup['items']:,} items"
    parts: tuple[RenderableType, ...] = (
        title,
        curves_table(results),
        comparison_table(results),
        *notes(results),
        scale_table(results),
        targets_table(results, targets(results)),
    )
    print_results(parts, results, json_file)
    if plot is not None:
        draw(results, plot, title)
