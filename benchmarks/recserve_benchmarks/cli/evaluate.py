"""`recserve evaluate`: how good recommendations are, measured offline on a log of what users did."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from recserve_benchmarks.cli.output import check_folders, print_results, steps
from recserve_client.cli.console import fail
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace

app = typer.Typer(help="Measure offline how good recommendations are.", no_args_is_help=True)


@app.callback()
def evaluate() -> None:
    """Measure offline how good recommendations are."""


@app.command()
def history(
    dataset: Annotated[Path, typer.Option(help="RecBole .inter file, or a folder with one; .item beside it.")],
    home: Annotated[Path, typer.Option(help="Folder with the encoder.")] = DEFAULT_HOME,
    precision: Annotated[str, typer.Option(help="auto, fp32, int8 or int8-fast.")] = "auto",
    seeds: Annotated[int, typer.Option(help="Seeds that break ties; figures are means over them.", min=3, max=20)] = 3,
    system: Annotated[list[str] | None, typer.Option(help="Only this system; repeatable (all if none).")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw NDCG@10 of every system into this PNG.")] = None,
) -> None:
    """Rank all items for users of a log: popularity, texts by rules, item-to-item counts, and blends of these."""
    check_folders(json_file, plot)
    try:
        from recserve_benchmarks.errors import BenchmarkError
        from recserve_benchmarks.evaluation import run, systems  # noqa: F401 - whether all is installed
        from recserve_export.errors import ExportError
        from recserve_server_ext.common.errors import ServerError
    except ModuleNotFoundError as error:
        fail(f"recserve evaluate needs the module {error.name!r}: pip install 'recserve[serve,export,bench]'")
    try:
        results = _measure(dataset, Workspace(home), precision, seeds, system or [])
    except (BenchmarkError, ExportError, ServerError) as error:
        fail(str(error))
    _report(results, json_file, plot)


def _measure(place: Path, workspace: Workspace, precision: str, seeds: int, systems: list[str]) -> dict[str, Any]:
    from recserve_benchmarks.evaluation.data import encode_texts, read_dataset
    from recserve_benchmarks.evaluation.report import hardware
    from recserve_benchmarks.evaluation.run import evaluate as run
    from recserve_benchmarks.evaluation.systems import named
    from recserve_server_ext.encoder.selection import choose_encoder
    from recserve_server_ext.encoder.text_encoder import TextEncoder

    chosen = named(systems)
    data = read_dataset(place)
    folder = choose_encoder(workspace, cast("Literal['auto', 'fp32', 'int8', 'int8-fast']", precision))
    encoder = TextEncoder(folder)
    with steps() as done:
        done("encode item texts", 0, data.items)
        vectors = encode_texts(data, encoder)
        protocols = run(data, vectors, chosen, range(seeds), done)
    setup = {
        "dataset": data.files,
        "users": data.columns.users,
        "items": data.items,
        "items_with_text": int(vectors.any(axis=1).sum()),
        "interactions": len(data.columns.time_us),
        "text_fields": data.fields,
        "encoder": {"name": encoder.manifest.name, "fingerprint": encoder.fingerprint},
        "seeds": list(range(seeds)),
    }
    return {"hardware": hardware(), "setup": setup, "protocols": protocols}


def _report(results: dict[str, Any], json_file: Path | None, plot: Path | None) -> None:
    from recserve_benchmarks.evaluation.report import cold_table, draw, notes, systems_table

    setup = results["setup"]
    line = (
        f"{setup['users']:,} users, {setup['items']:,} items, {setup['interactions']:,} interactions; "
        f"{len(setup['seeds'])} seeds"
    )
    tables = [make(results, name) for name in results["protocols"] for make in (systems_table, cold_table)]
    print_results([line, *(table for table in tables if table.row_count), *notes(results)], results, json_file)
    if plot is not None:
        draw(results, plot, f"{line}; {setup['encoder']['name']}")
