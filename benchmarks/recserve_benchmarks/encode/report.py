"""What `recserve bench encode` says: targets, tables, notes and a plot."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from textwrap import fill
from typing import Any, Final

from rich.table import Table

from recserve_benchmarks.encode.bench import FAST_OURS, GRPC, OURS, PLAIN, TORCH
from recserve_benchmarks.encode.corpus import KINDS
from recserve_benchmarks.encode.peers import PEERS
from recserve_benchmarks.harness import report
from recserve_benchmarks.harness.report import Target, machine, value_of
from recserve_server_ext.common import cpu

_LABELS: Final = {
    TORCH: "sentence-transformers (torch)",
    PLAIN: "onnxruntime, plain",
    OURS: "recserve in process",
    GRPC: "recserve over gRPC",
    FAST_OURS: "recserve in process, int8-fast",
    **{peer: peer for peer in PEERS},
}
_COLOURS: Final = {OURS: "tab:blue", FAST_OURS: "tab:cyan", GRPC: "tab:green"}
_PACKAGES: Final = ("torch", "transformers", "sentence-transformers", "onnx")
_COLUMNS: Final = 100
#: Beyond this share of the cores other programs make the figures of a round doubtful.
_MUCH_CONTENTION: Final = 0.05


def hardware() -> dict[str, Any]:
    """CPU with its flags, versions and commit."""
    found = machine()
    return {**found, "versions": {**found["versions"], **{name: version(name) for name in _PACKAGES}}}


def targets(results: dict[str, Any]) -> list[Target]:
    """The targets on this CPU: with int8 dot products (VNNI, AMX) more is asked for.

    What is asked of the encoder that is served is asked of `int8-fast`, too, where the one misses it and the other was
    measured: either is enough.
    """
    fast = cpu.has_int8_dot_product()
    bounds = {"titles": 5.0 if fast else 1.8, "descriptions": 5.0 if fast else 1.3}
    served = [Target(f"ratios.in_process_to_torch.{kind}", bounds[kind], None, at_least=True) for kind in KINDS]
    is_met = all(target.met(value_of(results, target.name)) for target in served)
    other = [] if is_met or FAST_OURS not in results["systems"] else ["int8_fast_to_torch"]
    return [
        *served,
        *(Target(f"ratios.{ratio}.{kind}", bounds[kind], None, at_least=True) for ratio in other for kind in KINDS),
        *(Target(f"ratios.grpc_to_in_process.{kind}", 0.85, 0.95, at_least=True) for kind in KINDS),
        Target("start.first_vector_s", 2, None, at_least=False),
    ]


def targets_table(results: dict[str, Any]) -> Table:
    """The targets and whether the medians meet them, with the range over the rounds; at most 100 columns wide."""
    starts = {"start.first_vector_s": (min(results["start"]["starts_s"]), max(results["start"]["starts_s"]))}
    return report.targets_table({**results, "spread": {**results["spread"], **starts}}, targets(results))


def systems_table(results: dict[str, Any]) -> Table:
    """Texts/s and CPU of every system, for both kinds of text."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("")
    for kind in KINDS:
        for name in (f"{kind}/s", "CPU us"):
            table.add_column(name, justify="right")
    for name in results["systems"]:
        cells = []
        for kind in KINDS:
            rate, cpu_us = results["systems"][name][kind], results["cpu_us"][name][kind]
            cells += [f"{rate:,.0f}", f"{cpu_us:,.0f}"]
        table.add_row(_LABELS[name], *cells)
    return table


def machine_line(results: dict[str, Any]) -> str:
    """CPU, its arithmetic, cores, and what is encoded with what."""
    found, texts = results["hardware"], results["texts"]
    kinds = ", ".join(f"{texts[kind]['count']:,} {kind} ({texts[kind]['tokens_mean']:.0f} tokens)" for kind in KINDS)
    encoder = results["setup"]["encoder"]
    return f"{found['cpu']}, {found['int8_arithmetic']}, {found['cores']} cores; {encoder['precision']}; {kinds}"


def notes(results: dict[str, Any]) -> list[str]:
    """What the tables leave out: batches, latency, contention, and why not to quote the figures."""
    batch, latency = results["batch"], results["latency_ms"]
    torch_batches = ", ".join(f"{batch_of} for {kind}" for kind, batch_of in results["torch_batch"].items())
    lines = [
        f"torch's batch: {torch_batches}",
        *(
            f"gRPC, {kind}: p50 {latency[kind]['p50']:.1f} ms, p99 {latency[kind]['p99']:.1f} ms; "
            f"{batch['embed'][kind]:.1f} requests a batch, {batch['encoder'][kind]:.1f} texts at the encoder"
            for kind in KINDS
        ),
    ]
    lines += _others(results)
    most = max(results["contention"])
    if most > _MUCH_CONTENTION:
        lines.append(f"other programs used up to {most:.0%} of the cores in a round: measure again without them")
    if results["setup"]["quick"]:
        lines.append("a trial, not to be quoted: few texts")
    return lines


def _others(results: dict[str, Any]) -> list[str]:
    """What is said of `int8-fast` and of the peers, measured or not."""
    fast = results["int8_fast"]
    if fast.get("absent"):
        lines = [f"int8-fast is not measured: {fast['absent']}"]
    else:
        lines = [f"int8-fast: mean cosine {fast['mean_cos']:.4f} with PyTorch, overlap {fast['overlap']:.3f}"]
    for name, peer in results["peers"].items():
        if peer["absent"]:
            lines.append(f"{name} is not measured: {peer['absent']}")
        else:
            ratio = results["ratios"][f"in_process_to_{name}"]
            faster = ", ".join(f"{ratio[kind]:.2f} with {kind}" for kind in KINDS)
            lines.append(f"{name} {peer['version']}: in process {faster.replace(' with', ' times as fast with', 1)}")
    return [fill(line, _COLUMNS, subsequent_indent="  ") for line in lines]


def draw(results: dict[str, Any], path: Path, title: str) -> None:
    """Plot texts/s of every system, one panel for each kind of text; whiskers are the range over the rounds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    systems = list(results["systems"])
    size = (10, 1.6 + 0.5 * len(systems))
    figure, panels = plt.subplots(1, len(KINDS), figsize=size, layout="constrained", sharey=True)
    colours = [_COLOURS.get(name, "tab:gray") for name in systems]
    for axes, kind in zip(panels, KINDS, strict=True):
        rates = [results["systems"][name][kind] for name in systems]
        rounds = [results["rounds"][f"texts_per_s.{name}.{kind}"] for name in systems]
        below = [rate - min(of) for rate, of in zip(rates, rounds, strict=True)]
        above = [max(of) - rate for rate, of in zip(rates, rounds, strict=True)]
        names = [_LABELS[name] for name in systems]
        axes.barh(names, rates, color=colours, xerr=(below, above), error_kw={"capsize": 3, "alpha": 0.6})
        for row, rate in enumerate(rates):
            axes.text(rate * 0.03, row, f"{rate:,.0f}", va="center", color="white", fontweight="bold")
        tokens = results["texts"][kind]["tokens_mean"]
        axes.set(xlabel="texts/s", title=f"{kind}, {tokens:.0f} tokens on average", xlim=(0, None))
        axes.grid(visible=True, axis="x", alpha=0.3)
        axes.set_axisbelow(True)
    panels[0].invert_yaxis()
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)
