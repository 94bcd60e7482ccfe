"""`recserve bench users`: the command; see `recserve_benchmarks.users.bench`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from recserve_benchmarks.cli.output import check_folders, print_results, steps
from recserve_client.cli.console import fail
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace

if TYPE_CHECKING:
    from recserve_benchmarks.users.bench import Plan


def users(
    home: Annotated[Path, typer.Option(help="Folder with encoder and catalogue.")] = DEFAULT_HOME,
    precision: Annotated[str, typer.Option(help="auto, fp32, int8 or int8-fast.")] = "auto",
    items: Annotated[int, typer.Option(help="Texts of the films to serve as items.", min=1000)] = 65_000,
    filled: Annotated[int, typer.Option("--users", help="Users in the store beside those measured.", min=0)] = 10_000,
    postgres: Annotated[str, typer.Option(help="URL of an empty PostgreSQL database, to measure too.")] = "",
    rounds: Annotated[int, typer.Option(help="Rounds; medians are over them.", min=1)] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="Few users: to try it, not to quote it.")] = False,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw speeds into this PNG.")] = None,
) -> None:
    """Measure recording against raw SQLite, recommending by user id against the caller's history, and erasing."""
    check_folders(json_file, plot)
    try:
        from recserve_benchmarks.errors import BenchmarkError
        from recserve_benchmarks.users.bench import Plan
        from recserve_server_ext.common.errors import ServerError
    except ModuleNotFoundError as error:
        fail(f"recserve bench needs the module {error.name!r}: pip install 'recserve[serve,export,bench]'")
    plan = Plan(rounds=rounds, filled=filled, seed=seed)
    if quick:
        plan = Plan(rounds=rounds, filled=filled, seed=seed, users=100, batched=2000, single=300, erased=20)
    try:
        results = _measure(Workspace(home), precision, items, postgres, plan)
    except (ServerError, BenchmarkError) as error:
        fail(str(error))
    results["setup"]["quick"] = quick
    _report(results, json_file, plot)


def _measure(workspace: Workspace, precision: str, items: int, postgres: str, plan: Plan) -> dict[str, Any]:
    from recserve_benchmarks.harness.corpus import prepare
    from recserve_benchmarks.harness.report import machine
    from recserve_benchmarks.users.bench import BATCH, CALLERS, UsersBench
    from recserve_server_ext.encoder.manifest import read_manifest
    from recserve_server_ext.encoder.selection import choose_encoder

    folder = choose_encoder(workspace, cast("Literal['auto', 'fp32', 'int8', 'int8-fast']", precision))
    with steps() as done:
        corpus = prepare(workspace, folder, items, done)
        serve = read_manifest(folder, verify=False).precision
        results = UsersBench(corpus, serve, postgres, plan, done).run()
    chosen = corpus.chosen
    results["setup"] = {
        **machine(),
        "items": chosen.items,
        "users": plan.filled,
        "encoder": chosen.encoder,
        "engine": {"name": chosen.text.engine.name, **chosen.text.engine.parameters},
        "callers": CALLERS,
        "interactions_a_request": BATCH,
        "plan": asdict(plan),
    }
    return results


def _report(results: dict[str, Any], json_file: Path | None, plot: Path | None) -> None:
    from recserve_benchmarks.harness.report import targets_table
    from recserve_benchmarks.users.report import TARGETS, draw, notes, recommend_table, record_table

    setup = results["setup"]
    title = f"{setup['cpu']}, {setup['int8_arithmetic']}, {setup['cores']} cores; {setup['items']:,} items"
    tables = (recommend_table(results), record_table(results), targets_table(results, TARGETS))
    print_results((title, *notes(results), *tables), results, json_file)
    if plot is not None:
        draw(results, plot, f"recserve, {title}")
