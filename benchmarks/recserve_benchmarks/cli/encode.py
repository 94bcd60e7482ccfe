"""`recserve bench encode`: the command; see `recserve_benchmarks.encode.bench`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from recserve_benchmarks.cli.output import check_folders, print_results, steps
from recserve_client.cli.console import fail
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace

if TYPE_CHECKING:
    from recserve_benchmarks.encode.bench import EncodePlan


def encode(
    home: Annotated[Path, typer.Option(help="Folder with encoder and index.")] = DEFAULT_HOME,
    precision: Annotated[str, typer.Option(help="auto, fp32, int8 or int8-fast.")] = "auto",
    source: Annotated[Path | None, typer.Option(help="Folder the encoder was exported from; default MiniLM.")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds; medians are over them.", min=1)] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the texts: to try it, not to quote it.")] = False,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw texts/s of every system into this PNG.")] = None,
) -> None:
    """Measure encoding, in process and over gRPC, against sentence-transformers and a plain onnxruntime session."""
    check_folders(json_file, plot)
    try:
        from recserve_benchmarks.encode.bench import EncodePlan
        from recserve_benchmarks.errors import BenchmarkError
        from recserve_client.errors import RecserveError
        from recserve_export.errors import ExportError
        from recserve_server_ext.common.errors import ServerError
    except ModuleNotFoundError as error:
        fail(f"recserve bench needs the module {error.name!r}: pip install 'recserve[serve,export,bench]'")
    plan = EncodePlan(rounds=rounds, seed=seed)
    if quick:
        plan = EncodePlan(rounds=rounds, seed=seed, titles=400, descriptions=100)
    try:
        results = _measure(Workspace(home), precision, source, plan)
    except (ServerError, ExportError, BenchmarkError, RecserveError) as error:
        fail(str(error))
    results["setup"]["quick"] = quick
    _report(results, json_file, plot)


def _measure(workspace: Workspace, precision: str, source: Path | None, plan: EncodePlan) -> dict[str, Any]:
    from recserve_benchmarks.encode.bench import CALLERS, EncodeBench
    from recserve_benchmarks.encode.report import hardware
    from recserve_export.encoder.source.folder import default_folder
    from recserve_server_ext.encoder.manifest import read_manifest
    from recserve_server_ext.encoder.selection import choose_encoder

    folder = choose_encoder(workspace, cast("Literal['auto', 'fp32', 'int8', 'int8-fast']", precision))
    with steps() as done:
        results = EncodeBench(workspace.home, folder, source or default_folder(), plan, done).run()
    manifest = read_manifest(folder, verify=False)
    results["hardware"] = hardware()
    results["setup"] = {
        "encoder": {
            "name": manifest.name,
            "precision": manifest.precision,
            "fingerprint": manifest.runtime_fingerprint,
            "max_tokens": manifest.max_tokens,
        },
        "callers": CALLERS,
        "plan": asdict(plan),
    }
    return results


def _report(results: dict[str, Any], json_file: Path | None, plot: Path | None) -> None:
    from recserve_benchmarks.encode.report import draw, machine_line, notes, systems_table, targets_table

    print_results(
        [machine_line(results), systems_table(results), *notes(results), targets_table(results)], results, json_file
    )
    if plot is not None:
        found = results["hardware"]
        title = f"{results['setup']['encoder']['name']} {results['setup']['encoder']['precision']}"
        draw(results, plot, f"{title}: {found['cpu']}, {found['int8_arithmetic']}, {found['cores']} cores")
