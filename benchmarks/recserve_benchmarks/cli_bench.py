"""`recserve bench`: measurements of this machine, with targets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from recserve_client.cli.console import fail, out, progress
from recserve_server_ext.workspace import DEFAULT_HOME, Workspace

app = typer.Typer(help="Measure speed against raw search, an echo and the encoder alone.", no_args_is_help=True)


@app.callback()
def bench() -> None:
    """Measure speed against raw search, an echo and the encoder alone."""


@app.command()
def recommend(
    home: Annotated[Path, typer.Option(help="Folder with encoder and catalogue.")] = DEFAULT_HOME,
    precision: Annotated[str, typer.Option(help="auto, fp32 or int8.")] = "auto",
    items: Annotated[int, typer.Option(help="Texts of the films to serve as items.", min=100)] = 65_000,
    rounds: Annotated[int, typer.Option(help="Rounds; medians are over them.", min=1)] = 5,
    soak: Annotated[int, typer.Option(help="Requests between two looks at memory.", min=10)] = 50_000,
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the users: to try it, not to quote it.")] = False,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw throughput against latency into this PNG.")] = None,
) -> None:
    """Measure recommending against raw hnswlib, a Triton echo and the encoder in process."""
    from typing import Literal, cast

    from recserve_benchmarks.corpus import prepare
    from recserve_benchmarks.recommend_bench import Plan, RecommendBench
    from recserve_benchmarks.report import costs_table, draw, machine, targets_table
    from recserve_server_ext.encoder_manifest import choose_encoder
    from recserve_server_ext.errors import ServerError
    from recserve_server_ext.text_encoder import TextEncoder

    plan = Plan(rounds=rounds, soak=soak, seed=seed)
    if quick:
        plan = Plan(rounds=rounds, users=200, text_users=40, sweep=(1, 8, 32), sweep_users=100, soak=soak, seed=seed)
    workspace = Workspace(home)
    try:
        folder = choose_encoder(workspace, cast("Literal['auto', 'fp32', 'int8']", precision))
        with progress("prepare", None) as bar:

            def done(what: str, count: int, total: int) -> None:
                bar.update(bar.task_ids[0], description=what, completed=count, total=total)

            corpus = prepare(workspace, folder, items, done)
            results = RecommendBench(corpus, TextEncoder(folder), plan, done).run()
    except (ServerError, RuntimeError) as error:
        fail(str(error))
    engine = corpus.snapshot.manifest.engine
    results["setup"] = {
        **machine(),
        "items": corpus.snapshot.manifest.items,
        "encoder": corpus.snapshot.manifest.encoder,
        "engine": {"name": engine.name, **engine.parameters},
        "callers": 32,
        "behaviours": 20,
        "seed": seed,
    }
    _print(results, [costs_table(results), targets_table(results)])
    if json_file is not None:
        json_file.write_text(json.dumps(results, indent=2) + "\n")
    if plot is not None:
        setup = results["setup"]
        machine_name = f"{setup['cpu']} ({setup['int8_arithmetic']}, {setup['cores']} cores)"
        draw(results, plot, f"recserve, {setup['items']:,} items, {machine_name}")


def _print(results: dict[str, object], tables: list[object]) -> None:
    setup = results["setup"]
    assert isinstance(setup, dict)
    out.print(
        f"{setup['cpu']}, {setup['cores']} cores, int8 arithmetic {setup['int8_arithmetic']}; "
        f"{setup['items']:,} items, {setup['engine']}",
        highlight=False,
        soft_wrap=True,
    )
    for table in tables:
        out.print(table)
