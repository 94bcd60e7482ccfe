"""`recserve bench`: measurements of this machine, with targets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from recserve_benchmarks.cli.common import (
    Home,
    Items,
    JsonFile,
    Output,
    Plot,
    Quick,
    RoundsOption,
    Seed,
    encoder_of,
)
from recserve_export.cli.options import Precision
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace

if TYPE_CHECKING:
    from recserve_benchmarks.harness.run import Run

app = typer.Typer(help="Measure speed against raw search, an echo and the encoder alone.", no_args_is_help=True)


@app.command()
def recommend(
    home: Home = DEFAULT_HOME,
    precision: Precision = "auto",
    items: Items = 65_000,
    rounds: RoundsOption = 5,
    quick: Quick = False,
    seed: Seed = 0,
    json_file: JsonFile = None,
    plot: Plot = None,
) -> None:
    """Measure recommending against raw hnswlib, a Triton echo and the encoder in process."""
    output = Output(json_file, plot)
    with output.measuring() as show:
        from recserve_benchmarks.recommend import report
        from recserve_benchmarks.recommend.bench import RecommendBench

        run = _run(home, precision, items=items, rounds=rounds, quick=quick, seed=seed, show=show)
        results = RecommendBench(run).measure()
    output.write(results, report.parts(results), report.draw)


@app.command()
def check(
    home: Home = DEFAULT_HOME,
    precision: Precision = "auto",
    items: Items = 17_000,
    baseline: Annotated[Path | None, typer.Option(help="A file that `--json` wrote, to compare with.")] = None,
    rounds: RoundsOption = 9,
    quick: Quick = False,
    seed: Seed = 0,
    json_file: JsonFile = None,
) -> None:
    """Say which ratios of serving moved since a recorded run; exit code 1 where one got worse."""
    output = Output(json_file, None)
    with output.measuring() as show:
        from recserve_benchmarks.check import bench

        run = _run(home, precision, items=items, rounds=rounds, quick=quick, seed=seed, show=show)
        results = bench.measure(run)
        found = None if baseline is None else bench.changes(bench.read_baseline(baseline, results), results)
    output.write(results, bench.parts(results, found), lambda *_: None)
    if found is not None and any(change.is_worse for change in found.values()):
        raise typer.Exit(1)


@app.command()
def encode(
    home: Home = DEFAULT_HOME,
    precision: Precision = "auto",
    source: Annotated[Path | None, typer.Option(help="Folder the encoder was exported from; default MiniLM.")] = None,
    rounds: RoundsOption = 5,
    quick: Quick = False,
    seed: Seed = 0,
    json_file: JsonFile = None,
    plot: Plot = None,
) -> None:
    """Measure encoding, in process and over gRPC, against sentence-transformers and others."""
    output = Output(json_file, plot)
    with output.measuring() as show:
        from recserve_benchmarks.encode import report
        from recserve_benchmarks.encode.bench import EncodeBench
        from recserve_export.encoder.source.folder import default_folder

        run = _run(home, precision, rounds=rounds, quick=quick, seed=seed, show=show)
        results = EncodeBench(run, source or default_folder()).measure()
    output.write(results, report.parts(results), report.draw)


@app.command()
def retrieve(
    home: Home = DEFAULT_HOME,
    precision: Precision = "auto",
    items: Annotated[int, typer.Option(help="Largest number of items; synthetic beyond 65,000.", min=1000)] = 65_000,
    milvus_uri: Annotated[str, typer.Option(help="Where Milvus is, to measure it too: http://host:port.")] = "",
    rounds: RoundsOption = 5,
    quick: Quick = False,
    seed: Seed = 0,
    json_file: JsonFile = None,
    plot: Plot = None,
) -> None:
    """Measure the engines on user vectors at several sizes, retrieval over them, and a swap under load."""
    output = Output(json_file, plot)
    with output.measuring() as show:
        from recserve_benchmarks.retrieve import bench, report

        run = _run(home, precision, items=items, rounds=rounds, quick=quick, seed=seed, show=show)
        results = bench.measure(run, milvus_uri, output.keep)
    output.write(results, report.parts(results), report.draw)


@app.command()
def users(
    home: Home = DEFAULT_HOME,
    precision: Precision = "auto",
    items: Items = 65_000,
    filled: Annotated[int, typer.Option("--users", help="Users in the store beside those measured.", min=0)] = 10_000,
    postgres: Annotated[str, typer.Option(help="URL of an empty PostgreSQL database, to measure too.")] = "",
    rounds: RoundsOption = 5,
    quick: Quick = False,
    seed: Seed = 0,
    json_file: JsonFile = None,
    plot: Plot = None,
) -> None:
    """Measure recording against raw SQLite, and recommending by user id against the caller's history."""
    output = Output(json_file, plot)
    with output.measuring() as show:
        from recserve_benchmarks.users import report
        from recserve_benchmarks.users.bench import UsersBench

        run = _run(home, precision, items=items, rounds=rounds, quick=quick, seed=seed, show=show)
        results = UsersBench(run, filled, postgres).measure()
    output.write(results, report.parts(results), report.draw)


@app.command()
def http(
    home: Home = DEFAULT_HOME,
    precision: Precision = "auto",
    items: Items = 65_000,
    rounds: RoundsOption = 5,
    quick: Quick = False,
    seed: Seed = 0,
    json_file: JsonFile = None,
) -> None:
    """Measure recommending over HTTP against gRPC, over the same server."""
    output = Output(json_file, None)
    with output.measuring() as show:
        from recserve_benchmarks.http import bench

        run = _run(home, precision, items=items, rounds=rounds, quick=quick, seed=seed, show=show)
        results = bench.measure(run)
    output.write(results, bench.parts(results), lambda *_: None)


@app.command()
def overload(
    home: Home = DEFAULT_HOME,
    precision: Precision = "auto",
    items: Items = 17_000,
    raw: Annotated[bool, typer.Option("--raw", help="Send everything, without the throttle of the client.")] = False,
    quick: Quick = False,
    seed: Seed = 0,
    json_file: JsonFile = None,
    plot: Plot = None,
) -> None:
    """Measure up to ten times more requests than the server has capacity for: goodput, latency and recovery."""
    output = Output(json_file, plot)
    with output.measuring() as show:
        from recserve_benchmarks.overload import report
        from recserve_benchmarks.overload.bench import OverloadBench

        run = _run(home, precision, items=items, quick=quick, seed=seed, show=show)
        results = OverloadBench(run, raw=raw).measure(output.keep)
    output.write(results, report.parts(results), report.draw)


@app.command()
def evaluate(
    log: Annotated[
        Literal["small", "medium", "large", "all"],
        typer.Option(help="Made-up log: 100,000 interactions of 1,700 or 9,066 items, or 1.15 million of 271,000."),
    ] = "all",
    system: Annotated[list[str] | None, typer.Option(help="Only this system; repeatable (all if none).")] = None,
    most_users: Annotated[int, typer.Option("--users", help="Users of a part at most; 0 for all.", min=0)] = 2000,
    seed: Seed = 0,
    json_file: JsonFile = None,
) -> None:
    """Measure the duration and the memory of `recserve evaluate` on made-up logs; it needs no home."""
    output = Output(json_file, None)
    with output.measuring() as show:
        from recserve_benchmarks.evaluation import bench

        results = bench.measure(list(bench.SIZES) if log == "all" else [log], system or [], most_users, seed, show)
    output.write(results, bench.parts(results), lambda *_: None)


@app.command()
def strategies(
    home: Home = DEFAULT_HOME,
    precision: Precision = "auto",
    items: Annotated[
        list[int] | None,
        typer.Option(help="Made-up items with a made-up log, all trained, in place of the home; repeatable.", min=1000),
    ] = None,
    rounds: RoundsOption = 5,
    quick: Quick = False,
    seed: Seed = 0,
    json_file: JsonFile = None,
    plot: Plot = None,
) -> None:
    """Measure the CPU of a user by each strategy that the home serves, against the strategy text."""
    output = Output(json_file, plot)
    with output.measuring() as show:
        from recserve_benchmarks.strategies import report
        from recserve_benchmarks.strategies.bench import measure

        run = _run(home, precision, rounds=rounds, quick=quick, seed=seed, show=show)
        results = measure(run, items or [])
    output.write(results, report.parts(results), report.draw)


@app.command()
def training(
    home: Home = DEFAULT_HOME,
    seeds: Annotated[int, typer.Option(min=1, help="Splits of the log, each with its own seed.")] = 5,
    head_steps: Annotated[int, typer.Option(min=1, help="Updates of the head.")] = 600,
    steps: Annotated[int, typer.Option(min=1, help="Updates of the encoder.")] = 40,
    only: Annotated[
        Literal["all", "text_head", "encoder"], typer.Option(help="What is trained: a head takes seconds.")
    ] = "all",
    json_file: JsonFile = None,
) -> None:
    """Measure options of the trainings `text_head` and `encoder`, alone and together, on validation data."""
    output = Output(json_file, None)
    with output.measuring() as show:
        from recserve_benchmarks.training.options import ENCODERS, HEADS, OptionsRun
        from recserve_benchmarks.training.report import lines

        chosen = {"heads": () if only == "encoder" else HEADS, "encoders": () if only == "text_head" else ENCODERS}
        results = OptionsRun(
            workspace=Workspace(home),
            seeds=seeds,
            head_steps=head_steps,
            steps=steps,
            show=show,
            keep=output.keep,
            **chosen,
        ).measure()
    output.write(results, lines(results), lambda *_: None)


@app.command()
def spaces(
    home: Home = DEFAULT_HOME,
    seeds: Annotated[int, typer.Option(min=1, help="Splits of the log, each with its own seed.")] = 5,
    json_file: JsonFile = None,
) -> None:
    """Measure what spaces of own vectors bring beside the text, on last items and on items that nobody had."""
    output = Output(json_file, None)
    with output.measuring() as show:
        from recserve_benchmarks.training.report import lines_of_spaces
        from recserve_benchmarks.training.spaces import SpacesRun

        results = SpacesRun(workspace=Workspace(home), seeds=seeds, show=show).measure()
    output.write(results, lines_of_spaces(results), lambda *_: None)


def _run(home: Path, precision: Precision, **settings: Any) -> Run:
    """The run that the options describe, after a look at the machine."""
    from recserve_benchmarks.harness.contention import RunContention
    from recserve_benchmarks.harness.run import Run

    workspace, encoder = encoder_of(home, precision)
    return Run(workspace=workspace, encoder=encoder, contention=RunContention(), **settings)


@app.command("import")
def import_(
    rows: Annotated[int, typer.Option(min=1000, help="Rows of each file.")] = 200_000,
    seed: Seed = 0,
    json_file: JsonFile = None,
) -> None:
    """Measure imports into SQLite against the same job by pyarrow and sqlite3: the same tables and durability."""
    output = Output(json_file, None)
    with output.measuring():
        from recserve_benchmarks.imports.bench import measure
        from recserve_client.cli.console import out

        results = measure(rows, seed)
    for kind, of_kind in results.items():
        for name, found in of_kind.items():
            out.print(
                f"{kind} {name}: {found['rows_per_s']:,.0f} rows/s, {found['ratio_to_library']:.2f} of the library, "
                f"peak {found['peak_mib']:,.0f} MiB",
                highlight=False,
            )
    output.keep(results)
