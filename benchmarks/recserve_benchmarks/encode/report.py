"""What `recserve bench encode` shows: texts/s of every system, targets, and a plot."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import Any

from rich.console import RenderableType

from recserve_benchmarks.encode.bench import GRPC, OURS
from recserve_benchmarks.encode.texts import KINDS
from recserve_benchmarks.harness import report
from recserve_benchmarks.harness.report import Target, cautions, horizontal_bars, matrix, picture, targets_table
from recserve_server_ext.common import cpu


def targets() -> list[Target]:
    """What is to be reached on this CPU: with int8 dot products (VNNI, AMX) more is asked for."""
    fast = cpu.has_int8_dot_product()
    bounds = {"titles": 5.0 if fast else 1.8, "descriptions": 5.0 if fast else 1.3}
    return [
        *(Target(f"ratios.in_process_to_torch.{kind}", bounds[kind]) for kind in KINDS),
        Target("ratios.grpc_to_in_process.titles", 0.5),
        Target("ratios.grpc_to_in_process.descriptions", 0.9),
        Target("start.first_vector_s", 1.5, at_least=False),
    ]


def parts(results: dict[str, Any]) -> list[RenderableType]:
    """Lines and tables, at most 100 columns wide."""
    return [
        title(results),
        matrix(results["systems"], "texts/s"),
        matrix(results["cpu_us"], "CPU us a text"),
        *notes(results),
        targets_table(results, targets()),
    ]


def title(results: dict[str, Any]) -> str:
    """The machine, the encoder and the texts."""
    texts = results["texts"]
    kinds = ", ".join(f"{texts[kind]['count']:,} {kind} ({texts[kind]['tokens_mean']:.0f} tokens)" for kind in KINDS)
    return f"{report.title(results)}; {results['setup']['encoder']['precision']}; {kinds}"


def notes(results: dict[str, Any]) -> list[str]:
    """Batches, latency, and peers that are not measured."""
    batch, latency = results["batch"], results["latency_ms"]
    torch_batches = ", ".join(f"{batch_of} for {kind}" for kind, batch_of in results["torch_batch"].items())
    lines = [
        f"gRPC, {kind}: p50 {latency[kind]['p50']:.1f} ms, p99 {latency[kind]['p99']:.1f} ms; "
        f"{batch['embed'][kind]:.1f} requests a batch, {batch['encoder'][kind]:.1f} texts at the encoder"
        for kind in KINDS
    ]
    absent = {name: peer["absent"] for name, peer in results["peers"].items() if peer["absent"]}
    lines += [fill(f"{name} is not measured: {why}", 100, subsequent_indent="  ") for name, why in absent.items()]
    return [f"torch's batch: {torch_batches}", *lines, *cautions(results)]


def draw(results: dict[str, Any], path: Path) -> None:
    """Plot texts/s of every system, one panel for each kind of text; whiskers are the range over the rounds."""
    systems = sorted(results["systems"])
    colours = ["tab:blue" if name in (OURS, GRPC) else "tab:gray" for name in systems]
    with picture(path, title(results), 1, len(KINDS), (11, 1.6 + 0.5 * len(systems))) as panels:
        for axes, kind in zip(panels, KINDS, strict=True):
            ends = {name: results["spread"][f"systems.{name}.{kind}"] for name in systems}
            values = {name: (ends[name][0], results["systems"][name][kind], ends[name][1]) for name in systems}
            horizontal_bars(axes, values, colours)
            axes.set(xlabel="texts/s", title=kind)
