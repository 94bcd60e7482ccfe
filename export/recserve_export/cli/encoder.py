"""`recserve export encoder|verify|gate`: make encoders that can be served, and check them where they run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from recserve_client.cli.console import note, out
from recserve_client.cli.tables import plain, table
from recserve_export.cli import options
from recserve_export.cli.common import explained, say, stage_bar
from recserve_export.encoder.checks.fidelity_gate import DEFAULT_GATE, Gate, check_gate
from recserve_export.encoder.export import ExportSettings, export_encoder
from recserve_export.encoder.recipe import Exporter
from recserve_export.encoder.source.folder import SourceOptions
from recserve_export.encoder.source.sentence_modules import Pooling
from recserve_export.encoder.targets.targets import DEFAULT_MAX_BATCH
from recserve_export.errors import ExportError
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace
from recserve_server_ext.config.server import Provider, Target
from recserve_server_ext.encoder.manifest import LongText

if TYPE_CHECKING:
    from recserve_export.encoder.checks.speed import Speed
    from recserve_export.encoder.export import Exported
    from recserve_export.encoder.report.report import Candidate, EncoderReport

#: Headings of the figures of an encoder.
_FIGURES: Final = ("size", "mean cos", "1% cos", "overlap", "Spearman", "titles/s", "descr./s")
_ALL: Final[tuple[Target, ...]] = ("embedded", "onnxruntime", "tensorrt")


def _bound(figure: str) -> Any:
    """A bound of the gate."""
    return typer.Option(min=-1.0, max=1.0, help=f"Gate: {figure}.")


MinMeanCos = Annotated[float, _bound("mean cosine with the reference")]
MinP01Cos = Annotated[float, _bound("first percentile of the cosine with the reference")]
MinOverlap = Annotated[float, _bound("ten nearest neighbours shared with the reference")]
MinSpearman = Annotated[float, _bound("rank correlation of the cosines of pairs with the reference")]
Texts = Annotated[
    Path | None, typer.Option(help="File with one text a line, to calibrate and check with.", show_default="the films")
]
Folder = Annotated[Path, typer.Argument(help="Encoder folder, such as .recserve/encoder/fp16.")]
Server = Annotated[str | None, typer.Option(help="host:port of a server that runs it; its model embed is asked.")]

app = typer.Typer(help="Turn a model into files that can be served.", no_args_is_help=True)


@app.command()
def encoder(
    source: Annotated[
        str | None,
        typer.Argument(
            help="Hugging Face or sentence-transformers folder, or a name on the hub.", show_default="all-MiniLM-L6-v2"
        ),
    ] = None,
    home: options.Home = DEFAULT_HOME,
    precision: Annotated[
        Literal["auto", "fp32", "int8", "int8-fast", "fp16", "bf16"],
        typer.Option(help="auto: the fastest on this machine that passes the gate."),
    ] = "auto",
    pooling: Annotated[
        Pooling | None, typer.Option(help="How token vectors become one.", show_default="what the model says")
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(help="Most tokens of a text.", show_default="what the model says, or its positions up to 512"),
    ] = None,
    dim: Annotated[
        int | None, typer.Option(help="Keep the first elements of a vector (Matryoshka models).", show_default="all")
    ] = None,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read pickled weights (pytorch_model.bin).")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the Python code that comes with the model.")
    ] = False,
    query_prompt: Annotated[
        str | None, typer.Option(help="Put before the texts of a history.", show_default="what the model says")
    ] = None,
    passage_prompt: Annotated[
        str | None, typer.Option(help="Put before the texts of items.", show_default="what the model says")
    ] = None,
    long_text: Annotated[
        LongText, typer.Option(help="Cut an item's long text off, or take the mean of its parts.")
    ] = "truncate",
    texts: Texts = None,
    min_mean_cos: MinMeanCos = DEFAULT_GATE.mean_cos,
    min_p01_cos: MinP01Cos = DEFAULT_GATE.p01_cos,
    min_overlap: MinOverlap = DEFAULT_GATE.overlap,
    min_spearman: MinSpearman = DEFAULT_GATE.spearman,
    target: Annotated[
        Literal["embedded", "onnxruntime", "tensorrt", "all"] | None,
        typer.Option(
            help="What will run it on Triton; it is written anew.", show_default="embedded, where it is missing"
        ),
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, max=1024, help="Texts of one batch of a target at most.")] = (
        DEFAULT_MAX_BATCH
    ),
    exporter: Annotated[
        Exporter, typer.Option(help="What traces the model; optimum needs the extra of its name.")
    ] = "torch",
    force: options.Force = False,
) -> None:
    """Export a text encoder to ONNX, with pooling and normalisation inside, and compare it with PyTorch."""
    asked = SourceOptions(
        pooling=pooling,
        max_tokens=max_tokens,
        dim=dim,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
        query_prompt=query_prompt,
        passage_prompt=passage_prompt,
        long_text=long_text,
    )
    settings = ExportSettings(
        gate=Gate(mean_cos=min_mean_cos, p01_cos=min_p01_cos, overlap=min_overlap, spearman=min_spearman),
        texts=texts,
        exporter=exporter,
        force=force,
        targets=() if target is None else _ALL if target == "all" else (target,),
        max_batch=max_batch,
    )
    with explained():
        workspace = Workspace(home)
        done = export_encoder(source, workspace, precision, options=asked, settings=settings, stage=stage_bar)
        for one in done:
            if not one.is_new:
                note(f"the {one.manifest.precision} encoder is up to date: {one.folder}")
        _print_table(done)
        _print_targets(done)
        _say_what_is_served(workspace, done)


@app.command()
def verify(folder: Folder, server: Server = None) -> None:
    """Check that an encoder, stored or served, gives the vectors that it gave when it was exported."""
    with explained():
        from recserve_export.encoder.checks.canonical import verify_served, verify_stored

        found = verify_stored(folder) if server is None else verify_served(folder, server)
        if found.other_arithmetic:
            note(
                f"warning: int8 vectors depend on the CPU ({found.other_arithmetic}): compared with {found.against}; "
                "an index that was built there does not fit, build it here"
            )
        say(f"{found.texts} texts: least cosine {found.min_cos:.7f} with the {found.against}, at least {found.least}")


@app.command()
def gate(
    folder: Folder,
    server: Server = None,
    provider: Annotated[
        Literal["cuda", "tensorrt"] | None, typer.Option(help="Run it in this process with onnxruntime-gpu instead.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="fp32 encoder of the same model.", show_default="the newest beside it")
    ] = None,
    texts: Texts = None,
    batches: Annotated[
        bool, typer.Option("--batches", help="Then measure there, and write the preferred batches.")
    ] = False,
    min_mean_cos: MinMeanCos = DEFAULT_GATE.mean_cos,
    min_p01_cos: MinP01Cos = DEFAULT_GATE.p01_cos,
    min_overlap: MinOverlap = DEFAULT_GATE.overlap,
    min_spearman: MinSpearman = DEFAULT_GATE.spearman,
) -> None:
    """Hold an encoder where it runs, say on a GPU, against fp32 on this CPU; exit code 1 when it misses the gate."""
    bounds = Gate(mean_cos=min_mean_cos, p01_cos=min_p01_cos, overlap=min_overlap, spearman=min_spearman)
    with explained():
        from recserve_export.encoder.checks.fidelity_gate import gate_where_it_runs

        if (server is None) == (provider is None):
            raise ExportError("give one of --server and --provider: where the encoder is to run")
        if batches and provider is None:
            raise ExportError("--batches measures in this process; give --provider in place of --server")
        where = server or provider
        found = gate_where_it_runs(folder, server=server, provider=provider, against=against, texts=texts)
        say(
            f"{found.texts} texts on {where}: mean cosine {found.mean_cos:.6f}, 1st percentile {found.p01_cos:.6f}, "
            f"overlap@10 {found.overlap:.4f}, Spearman {found.spearman:.4f}"
        )
        check_gate(f"{folder} on {where}", found, bounds)
        if batches and provider is not None:
            _measure_batches(folder, provider)


def _measure_batches(folder: Path, provider: Provider) -> None:
    """Measure on a GPU of this machine, and say what was written."""
    from recserve_export.encoder.targets.preferred_batches import measure_batches

    written = measure_batches(folder, provider)
    for file, sizes in written.items():
        say(f"preferred batches {', '.join(map(str, sizes)) or 'none: one text is as fast'}: {file}")
    if not written:
        note("measured and kept; recserve export encoder --target onnxruntime or tensorrt writes them")


def _print_table(done: list[Exported]) -> None:
    """Print the candidates of `auto`, or the encoders that were named, with their figures."""
    reports = [one.report() for one in done]
    last = reports[-1]
    rows = [
        _cells(one, one.precision, one.speed, "misses" if one.misses else "chosen" if one.is_chosen else "passes")
        for one in last.candidates
    ]
    for report in reports if not rows else ():
        verdict = "on the CPU" if report.not_gated else "passes"
        if last.gate.misses(report.fidelity):
            verdict = "misses"
        rows.append(_cells(report, report.precision, report.speeds[report.precision], verdict))
    title = f"{last.name} in {done[0].folder.parent}"
    out.print(table(("precision", *_FIGURES, "gate"), rows, right=_FIGURES, title=title))
    for exported in done:
        manifest = exported.manifest
        say(
            f"{manifest.precision}: fingerprint {manifest.fingerprint}, dim {manifest.dim}, "
            f"at most {manifest.max_tokens} tokens"
        )
    say(f"measured on {last.machine.cpu} ({last.machine.int8_arithmetic}), {last.machine.cores} cores")


def _cells(of: EncoderReport | Candidate, precision: str, speed: Speed, verdict: str) -> list[str]:
    fidelity = of.fidelity
    return [
        precision,
        f"{of.size_bytes / 1e6:.0f} MB" if of.size_bytes >= 1e7 else f"{of.size_bytes / 1e3:.0f} kB",
        f"{fidelity.mean_cos:.4f}",
        f"{fidelity.p01_cos:.4f}",
        f"{fidelity.overlap:.3f}",
        f"{fidelity.spearman:.4f}",
        f"{speed.titles:,.0f}",
        f"{speed.descriptions:,.0f}",
        verdict,
    ]


def _print_targets(done: list[Exported]) -> None:
    """Print what was written for Triton, what is left to do, and what was not gated."""
    for exported in done:
        for target in exported.targets:
            out.print(plain(f"{exported.manifest.precision}, {target.target}: {target.folder}"), highlight=False)
            if target.note:
                note(f"{target.target}: {target.note}")
        if unknown := exported.report().not_gated:
            note(
                f"{exported.manifest.precision} is not gated on this machine: {unknown}; "
                "on one with a GPU, serve it and run: "
                f"recserve export gate {exported.folder} --server HOST:PORT"
            )


def _say_what_is_served(workspace: Workspace, done: list[Exported]) -> None:
    """Say how to come to what was exported, where another encoder is served."""
    from recserve_server_ext.encoder.versions import active, made_by

    served, wanted = active(workspace), made_by(workspace.encoder, done[-1].manifest.runtime_fingerprint)
    if served is not None and wanted is not None and served.folder != wanted.folder:
        note(
            f"version {served.name} is still served; change encoder and index together with: "
            f"recserve encoder activate {wanted.number} --reindex"
        )
