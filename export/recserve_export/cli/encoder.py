"""`recserve export`: make what Triton serves."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import typer
from rich import box
from rich.table import Table

from recserve_client.cli.console import note, out
from recserve_export.cli.common import Precision, explained, stage_bar
from recserve_export.encoder.export import Exported, ExportSettings, export_encoder
from recserve_export.encoder.report.report import DEFAULT_GATE, Candidate, EncoderReport, Gate, Speed
from recserve_export.encoder.source.folder import SourceOptions
from recserve_export.encoder.targets.targets import DEFAULT_MOST
from recserve_export.errors import ExportError, FidelityError
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace
from recserve_server_ext.config.server import Provider, Target


class PoolingChoice(StrEnum):
    """Choices of `--pooling`."""

    MEAN = "mean"
    CLS = "cls"
    MAX = "max"
    LAST = "last"
    WEIGHTED_MEAN = "weighted_mean"


class ProviderChoice(StrEnum):
    """Choices of `gate --provider`."""

    CUDA = "cuda"
    TENSORRT = "tensorrt"


class TargetChoice(StrEnum):
    """Choices of `--target`."""

    EMBEDDED = "embedded"
    ONNXRUNTIME = "onnxruntime"
    TENSORRT = "tensorrt"
    ALL = "all"


_PROVIDERS: Final[dict[ProviderChoice, Provider]] = {
    ProviderChoice.CUDA: "cuda",
    ProviderChoice.TENSORRT: "tensorrt",
}
_TARGETS: Final[dict[TargetChoice, tuple[Target, ...]]] = {
    TargetChoice.EMBEDDED: ("embedded",),
    TargetChoice.ONNXRUNTIME: ("onnxruntime",),
    TargetChoice.TENSORRT: ("tensorrt",),
    TargetChoice.ALL: ("embedded", "onnxruntime", "tensorrt"),
}


class LongTextChoice(StrEnum):
    """Choices of `--long-text`."""

    TRUNCATE = "truncate"
    CHUNK_MEAN = "chunk_mean"


def _bound(name: str, help: str) -> Any:
    """An option of the gate, with the gate's own default."""
    return typer.Option(getattr(DEFAULT_GATE, name), min=-1.0, max=1.0, help=help)


app = typer.Typer(help="Turn a model into files that can be served.", no_args_is_help=True)


@app.callback()
def _root() -> None:
    """Turn a model into files that can be served."""


_SOURCE: Final = typer.Argument(
    None, help="Hugging Face or sentence-transformers folder, or a name on the hub.", show_default="all-MiniLM-L6-v2"
)
_HOME: Final = typer.Option(DEFAULT_HOME, "--home", help="Folder to put the encoder in.")
_PRECISION: Final = typer.Option(Precision.AUTO, help="auto: the fastest on this machine that passes the gate.")
_POOLING: Final = typer.Option(None, help="How token vectors become one.", show_default="what the model says")
_MAX_TOKENS: Final = typer.Option(
    None, help="Most tokens of a text.", show_default="what the model says, or its positions up to 512"
)
_DIM: Final = typer.Option(None, help="Keep the first elements of a vector (Matryoshka models).", show_default="all")
_PICKLE: Final = typer.Option(False, "--allow-pickle", help="Read pickled weights (pytorch_model.bin).")
_CODE: Final = typer.Option(False, "--trust-remote-code", help="Run the Python code that comes with the model.")
_QUERY: Final = typer.Option(None, help="Put before the texts of a history.", show_default="what the model says")
_PASSAGE: Final = typer.Option(None, help="Put before the texts of items.", show_default="what the model says")
_LONG: Final = typer.Option(LongTextChoice.TRUNCATE, help="Cut an item's long text off, or take the mean of its parts.")
_TEXTS: Final = typer.Option(
    None, help="File with one text a line, to calibrate and check with.", show_default="the films"
)
_TARGET: Final = typer.Option(
    None, help="What will run it on Triton; the folders are written anew.", show_default="embedded, where it is missing"
)
_MOST: Final = typer.Option(
    DEFAULT_MOST, "--max-batch", min=1, max=1024, help="Texts of one batch of a target at most."
)
_FORCE: Final = typer.Option(False, "--force", help="Export even when what is there is up to date.")


@app.command()
def encoder(
    source: str | None = _SOURCE,
    home: Path = _HOME,
    precision: Precision = _PRECISION,
    pooling: PoolingChoice | None = _POOLING,
    max_tokens: int | None = _MAX_TOKENS,
    dim: int | None = _DIM,
    allow_pickle: bool = _PICKLE,
    trust_remote_code: bool = _CODE,
    query_prompt: str | None = _QUERY,
    passage_prompt: str | None = _PASSAGE,
    long_text: LongTextChoice = _LONG,
    texts: Path | None = _TEXTS,
    min_mean_cos: float = _bound("mean_cos", "Gate: mean cosine with PyTorch."),
    min_p01_cos: float = _bound("p01_cos", "Gate: first percentile of the cosine with PyTorch."),
    min_overlap: float = _bound("overlap", "Gate: ten nearest neighbours shared with PyTorch."),
    min_spearman: float = _bound("spearman", "Gate: rank correlation of the cosines of pairs with PyTorch."),
    target: TargetChoice | None = _TARGET,
    max_batch: int = _MOST,
    force: bool = _FORCE,
) -> None:
    """Export a text encoder to ONNX, with pooling and normalisation inside, and compare it with the original."""
    options = SourceOptions(
        pooling=None if pooling is None else pooling.value,
        max_tokens=max_tokens,
        dim=dim,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
        query_prompt=query_prompt,
        passage_prompt=passage_prompt,
        long_text=long_text.value,
    )
    gate = Gate(mean_cos=min_mean_cos, p01_cos=min_p01_cos, overlap=min_overlap, spearman=min_spearman)
    targets: tuple[Target, ...] = () if target is None else _TARGETS[target]
    settings = ExportSettings(gate=gate, texts=texts, force=force, targets=targets, most=max_batch)
    with explained():
        done = export_encoder(
            source, Workspace(home), precision.value, options=options, settings=settings, stage=stage_bar
        )
        for one in done:
            if not one.is_new:
                note(f"the {one.manifest.precision} encoder is up to date: {one.folder}")
        _print_table(done)
        _print_targets(done)
        _say_what_is_served(Workspace(home), done)


@app.command()
def verify(
    folder: Path = typer.Argument(help="Encoder folder, such as .recserve/encoder/fp32."),
    server: str | None = typer.Option(None, help="host:port of a server that runs it; its model embed is asked."),
) -> None:
    """Check that an encoder, stored or served, gives the vectors that it gave when it was exported."""
    with explained():
        from recserve_export.encoder.checks.canonical import verify_served, verify_stored

        found = verify_stored(folder) if server is None else verify_served(folder, server)
        if found.other_arithmetic:
            note(
                f"warning: int8 vectors depend on the CPU ({found.other_arithmetic}): compared with {found.against}; "
                "an index that was built there does not fit, build it here"
            )
        out.print(
            f"{found.texts} texts: least cosine {found.min_cos:.7f} with the {found.against}, at least {found.least}",
            highlight=False,
        )


@app.command()
def gate(
    folder: Path = typer.Argument(help="Encoder folder, such as .recserve/encoder/fp16."),
    server: str | None = typer.Option(None, help="host:port of a server that runs it; its model embed is asked."),
    provider: ProviderChoice | None = typer.Option(None, help="Run it in this process with onnxruntime-gpu instead."),
    against: Path | None = typer.Option(None, help="fp32 encoder of the same model.", show_default="fp32 beside it"),
    texts: Path | None = _TEXTS,
    batches: bool = typer.Option(False, "--batches", help="Then measure there, and write the preferred batches."),
    min_mean_cos: float = _bound("mean_cos", "Gate: mean cosine with fp32."),
    min_p01_cos: float = _bound("p01_cos", "Gate: first percentile of the cosine with fp32."),
    min_overlap: float = _bound("overlap", "Gate: ten nearest neighbours shared with fp32."),
    min_spearman: float = _bound("spearman", "Gate: rank correlation of the cosines of pairs with fp32."),
) -> None:
    """Hold an encoder where it runs, say on a GPU, against fp32 on this CPU; exit code 1 when it misses the gate."""
    bounds = Gate(mean_cos=min_mean_cos, p01_cos=min_p01_cos, overlap=min_overlap, spearman=min_spearman)
    with explained():
        from recserve_export.encoder.targets.gate import gate_encoder

        if (server is None) == (provider is None):
            raise ExportError("give one of --server and --provider: where the encoder is to run")
        if batches and provider is None:
            raise ExportError("--batches measures in this process; give --provider in place of --server")
        where = server or _PROVIDERS[provider or ProviderChoice.CUDA]
        fp32 = against or folder.parent / "fp32"
        agreement, neighbours = gate_encoder(
            folder, fp32, server=server, provider=None if provider is None else _PROVIDERS[provider], texts=texts
        )
        out.print(
            f"{agreement.texts} texts on {where}: mean cosine {agreement.mean_cos:.6f}, 1st percentile "
            f"{agreement.p01_cos:.6f}, overlap@{neighbours.k} {neighbours.overlap:.4f}, "
            f"Spearman {neighbours.spearman:.4f}",
            highlight=False,
        )
        if misses := bounds.misses(agreement, neighbours):
            raise FidelityError(f"{folder} on {where} misses the gate: {', '.join(misses)}; do not serve it so")
        if batches:
            _measure_batches(folder, _PROVIDERS[provider or ProviderChoice.CUDA])


def _measure_batches(folder: Path, provider: Provider) -> None:
    """Measure on a GPU of this machine, and say what was written."""
    from recserve_export.encoder.targets.gate import measure_where_it_runs

    written = measure_where_it_runs(folder, provider)
    for file, sizes in written.items():
        out.print(
            f"preferred batches {', '.join(map(str, sizes)) or 'none: one text is as fast'}: {file}", highlight=False
        )
    if not written:
        note("measured and kept; recserve export encoder --target onnxruntime or tensorrt writes them")


def _print_table(done: list[Exported]) -> None:
    """The candidates of `auto`, or the encoders that were named, with their figures."""
    last = done[-1].report()
    title = f"{last.name} in {done[0].folder.parent}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True)
    table.add_column("precision", no_wrap=True)
    for name in ("size", "mean cos", "1% cos", "overlap", "Spearman", "titles/s", "descr./s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("gate")
    for one in last.candidates:
        verdict = "misses" if one.misses else "chosen" if one.is_chosen else "passes"
        table.add_row(*_cells(one.precision, one, one.size_bytes, one.speed, verdict))
    if not last.candidates:
        for report in (one.report() for one in done):
            misses = last.gate.misses(report.agreement, report.neighbours)
            size, speed = sum(report.sizes_bytes.values()), report.speeds[report.precision]
            verdict = "misses" if misses else "on the CPU" if report.not_gated else "passes"
            table.add_row(*_cells(report.precision, report, size, speed, verdict))
    out.print(table)
    for exported in done:
        manifest = exported.manifest
        out.print(
            f"{manifest.precision}: fingerprint {manifest.fingerprint}, dim {manifest.dim}, "
            f"at most {manifest.max_tokens} tokens",
            highlight=False,
        )
    out.print(f"measured on {last.machine.cpu} ({last.machine.int8_arithmetic}), {last.machine.cores} cores")


def _say_what_is_served(workspace: Workspace, done: list[Exported]) -> None:
    """How to come to what was exported, where another encoder is served."""
    from recserve_server_ext.encoder.versions import active, made_by

    served, wanted = active(workspace), made_by(workspace.encoder, done[-1].manifest.runtime_fingerprint)
    if served is not None and wanted is not None and served.folder != wanted.folder:
        note(
            f"version {served.name} is still served; change encoder and index together with: "
            f"recserve encoder activate {wanted.number or wanted.name} --reindex"
        )


def _print_targets(done: list[Exported]) -> None:
    """What was written for Triton, what is left to do, and what was not gated."""
    for exported in done:
        for target in exported.targets:
            out.print(f"{exported.manifest.precision}, {target.target}: {target.folder}", highlight=False)
            if target.note:
                note(f"{target.target}: {target.note}")
        if unknown := exported.report().not_gated:
            note(
                f"{exported.manifest.precision} is not gated on this machine: {unknown}; "
                "on one with a GPU, serve it and run: "
                f"recserve export gate {exported.folder} --server HOST:PORT"
            )


def _cells(
    precision: str, figures: EncoderReport | Candidate, size_bytes: int, speed: Speed, verdict: str
) -> list[str]:
    agreement, neighbours = figures.agreement, figures.neighbours
    return [
        precision,
        _size(size_bytes),
        f"{agreement.mean_cos:.4f}",
        f"{agreement.p01_cos:.4f}",
        f"{neighbours.overlap:.3f}",
        f"{neighbours.spearman:.4f}",
        f"{speed.titles:,.0f}",
        f"{speed.descriptions:,.0f}",
        verdict,
    ]


def _size(count_bytes: int) -> str:
    return f"{count_bytes / 1e6:.0f} MB" if count_bytes >= 1e7 else f"{count_bytes / 1e3:.0f} kB"
