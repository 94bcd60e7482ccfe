"""`recserve export`: make what Triton serves."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import typer
from rich import box
from rich.table import Table

from recserve_client.cli.console import note, out
from recserve_export.cli_common import Precision, explained, stage_bar
from recserve_export.encoder_export import Exported, choose_precisions, export_encoder
from recserve_export.encoder_report import EncoderReport
from recserve_export.encoder_source import SourceOptions
from recserve_server_ext.workspace import DEFAULT_HOME, Workspace


class PoolingChoice(StrEnum):
    """Choices of `--pooling`."""

    MEAN = "mean"
    CLS = "cls"
    MAX = "max"
    LAST = "last"
    WEIGHTED_MEAN = "weighted_mean"


app = typer.Typer(help="Turn a model into files that can be served.", no_args_is_help=True)


@app.callback()
def _root() -> None:
    """Turn a model into files that can be served."""


@app.command()
def encoder(
    source: Path | None = typer.Argument(
        None, help="Hugging Face or sentence-transformers folder.", show_default="all-MiniLM-L6-v2"
    ),
    home: Path = typer.Option(DEFAULT_HOME, "--home", help="Folder to put the encoder in."),
    precision: Precision = typer.Option(
        Precision.AUTO, help="auto: fp32, and int8 where the CPU has int8 dot products."
    ),
    pooling: PoolingChoice | None = typer.Option(
        None, help="How token vectors become one.", show_default="what the model says"
    ),
    max_tokens: int | None = typer.Option(
        None, help="Truncate longer texts.", show_default="what the model says, or its positions up to 512"
    ),
    dim: int | None = typer.Option(
        None, help="Keep the first elements of a vector (Matryoshka models).", show_default="all"
    ),
    allow_pickle: bool = typer.Option(False, "--allow-pickle", help="Read pickled weights (pytorch_model.bin)."),
    trust_remote_code: bool = typer.Option(
        False, "--trust-remote-code", help="Run the Python code that comes with the model."
    ),
    force: bool = typer.Option(False, "--force", help="Export even when what is there is up to date."),
) -> None:
    """Export a text encoder to ONNX, with pooling and normalisation inside, and compare it with the original."""
    with explained():
        precisions = choose_precisions(precision.value)
        options = SourceOptions(
            pooling=None if pooling is None else pooling.value,
            max_tokens=max_tokens,
            dim=dim,
            allow_pickle=allow_pickle,
            trust_remote_code=trust_remote_code,
        )
        done = export_encoder(source, Workspace(home), precisions, options=options, force=force, stage=stage_bar)
        for one in done:
            if not one.is_new:
                note(f"the {one.manifest.precision} encoder is up to date: {one.folder}")
        _print_table(done)


def _print_table(done: list[Exported]) -> None:
    title = f"{done[0].manifest.name} in {done[0].folder.parent}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True)
    for name in ("precision", "fingerprint"):
        table.add_column(name, no_wrap=True)
    for name in ("size", "dim", "tokens", "min cos", "overlap", "texts/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in done:
        table.add_row(*_cells(one, one.report()))
    out.print(table)


def _cells(one: Exported, report: EncoderReport) -> list[str]:
    manifest = one.manifest
    return [
        manifest.precision,
        manifest.fingerprint,
        _size(sum(report.sizes_bytes.values())),
        str(manifest.dim),
        str(manifest.max_tokens),
        f"{report.agreement.min_cos:.6f}",
        f"{report.neighbours.overlap:.3f}" if report.neighbours else "",
        f"{report.texts_per_s[manifest.precision]:,.0f}",
    ]


def _size(count_bytes: int) -> str:
    return f"{count_bytes / 1e6:.0f} MB" if count_bytes >= 1e7 else f"{count_bytes / 1e3:.0f} kB"
