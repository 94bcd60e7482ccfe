"""`recserve bench`: measurements of this machine, with targets."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from recserve_benchmarks.cli.encode import encode
from recserve_benchmarks.cli.milvus import milvus
from recserve_benchmarks.cli.output import check_folders, print_results, steps
from recserve_benchmarks.cli.retrieve import retrieve
from recserve_benchmarks.cli.users import users
from recserve_client.cli.console import fail
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace

if TYPE_CHECKING:
    from recserve_benchmarks.recommend.bench import Plan

app = typer.Typer(help="Measure speed against raw search, an echo and the encoder alone.", no_args_is_help=True)
app.command()(users)
app.command()(encode)
app.command()(retrieve)
app.command()(milvus)


@app.callback()
def bench() -> None:
    """Measure speed against raw search, an echo and the encoder alone."""


@app.command()
def recommend(
    home: Annotated[Path, typer.Option(help="Folder with encoder and catalogue.")] = DEFAULT_HOME,
    precision: Annotated[str, typer.Option(help="auto, fp32, int8 or int8-fast.")] = "auto",
    items: Annotated[int, typer.Option(help="Texts of the films to serve as items.", min=100)] = 65_000,
    rounds: Annotated[int, typer.Option(help="Rounds; medians are over them.", min=1)] = 5,
    soak: Annotated[int, typer.Option(help="Requests between two looks at memory.", min=10)] = 50_000,
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the users: to try it, not to quote it.")] = False,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw throughput against latency into this PNG.")] = None,
) -> None:
    """Measure recommending against raw hnswlib, a Triton echo and the encoder in process."""
    check_folders(json_file, plot)
    try:
        from recserve_benchmarks.errors import BenchmarkError
        from recserve_benchmarks.recommend.bench import Plan
        from recserve_server_ext.common.errors import ServerError
    except ModuleNotFoundError as error:
        fail(f"recserve bench needs the module {error.name!r}: pip install 'recserve[serve,export,bench]'")
    plan = Plan(rounds=rounds, soak=soak, seed=seed)
    if quick:
        few = Plan(users=200, echo_users=1000, text_users=40, alone_users=40, sweep=(1, 8, 32), sweep_users=100)
        plan = replace(few, rounds=rounds, soak=soak, seed=seed)
    try:
        results = _measure(Workspace(home), precision, items, plan)
    except (ServerError, BenchmarkError) as error:
        fail(str(error))
    results["setup"]["quick"] = quick
    _report(results, json_file, plot)


def _measure(workspace: Workspace, precision: str, items: int, plan: Plan) -> dict[str, Any]:
    from recserve_benchmarks.harness.corpus import prepare
    from recserve_benchmarks.harness.report import machine
    from recserve_benchmarks.recommend.bench import CALLERS, RecommendBench
    from recserve_server_ext.encoder.selection import choose_encoder
    from recserve_server_ext.encoder.text_encoder import TextEncoder

    folder = choose_encoder(workspace, cast("Literal['auto', 'fp32', 'int8', 'int8-fast']", precision))
    with steps() as done:
        corpus = prepare(workspace, folder, items, done)
        results = RecommendBench(corpus, TextEncoder(folder), plan, done).run()
    manifest = corpus.snapshot.manifest
    results["setup"] = {
        **machine(),
        "items": manifest.items,
        "encoder": manifest.encoder,
        "engine": {"name": manifest.text.engine.name, **manifest.text.engine.parameters},
        "chosen_engine": {"name": corpus.chosen.text.engine.name, **corpus.chosen.text.engine.parameters},
        "callers": CALLERS,
        "behaviours": 20,
        "plan": asdict(plan),
    }
    return results


def _report(results: dict[str, Any], json_file: Path | None, plot: Path | None) -> None:
    from recserve_benchmarks.harness.report import costs_table, draw, notes, targets, targets_table

    setup = results["setup"]
    machine_name = f"{setup['cpu']}, {setup['int8_arithmetic']}, {setup['cores']} cores"
    lines = [f"{machine_name}; {setup['items']:,} items; {_words(setup['engine'])}"]
    lines += [f"chosen engine: {_words(setup['chosen_engine'])}", *notes(results)]
    print_results(
        (lines[0], costs_table(results), *lines[1:], targets_table(results, targets(results))), results, json_file
    )
    if plot is not None:
        draw(results, plot, f"recserve, {setup['items']:,} items, {machine_name}")


def _words(engine: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in engine.items())
