"""What a benchmark leaves behind: targets, the machine it ran on, JSON, a table and a plot."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from recserve_server_ext.common import cpu

#: Items that figures worth quoting are measured with, at least.
LEAST_ITEMS = 60_000
_LABELS = {
    "raw_interests": "raw hnswlib, interests",
    "raw_random": "raw hnswlib, random",
    "huge_interests": "raw with huge pages, interests",
    "echo": "Triton echo",
    "serve_interests": "recserve, interests",
    "serve_random": "recserve, random",
    "chosen_interests": "recserve, chosen engine, interests",
    "chosen_random": "recserve, chosen engine, random",
    "raw_texts": "raw encode + search, 5 texts",
    "serve_texts": "recserve, 5 texts",
}
_PACKAGES = ("recserve", "hnswlib", "numpy", "onnxruntime", "tokenizers", "tritonclient", "nvidia-pytriton")


class Target(NamedTuple):
    """A figure to reach.

    Attributes:
        name: Path of the figure in the results.
        bound: What it has to reach.
        goal: What it should reach one day; none = the bound.
        at_least: Whether more is better.
    """

    name: str
    bound: float
    goal: float | None
    at_least: bool

    def met(self, value: float) -> bool:
        """Whether the figure reaches the bound."""
        return value >= self.bound if self.at_least else value <= self.bound


def targets(results: dict[str, Any]) -> list[Target]:
    """The targets of `recserve bench recommend`."""
    return [
        Target("known.ratio_to_raw", 0.7, 0.85, at_least=True),
        Target("known.recall_at_10", 0.98, None, at_least=True),
        Target("known.overhead_to_echo", 2.5, 1.5, at_least=False),
        Target("texts.ratio_to_raw", 0.75, 0.9, at_least=True),
        Target("one_caller.p50_ms", results["one_caller"]["allowed_ms"], None, at_least=False),
        Target("chosen.recall_at_10", 0.98, None, at_least=True),
        Target("chosen.p50_ms", results["one_caller"]["allowed_ms"], None, at_least=False),
        Target("memory.growth_mb", 16, 0, at_least=False),
    ]


def value_of(results: dict[str, Any], name: str) -> float:
    """The figure at a path such as ``known.ratio_to_raw``; keys between may hold dots (``filtered.0.05.recall``)."""
    group, _, rest = name.partition(".")
    middle, _, key = rest.rpartition(".")
    return float(results[group][middle][key] if middle else results[group][rest])


def machine() -> dict[str, Any]:
    """Hardware, versions and commit; `+` after the commit: files differ from it. None outside a checkout."""
    return {
        "cpu": cpu.model_name(),
        "cores": cpu.usable_cores(),
        "int8_arithmetic": cpu.int8_arithmetic(),
        "cpu_flags": cpu.vector_flags(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
        "commit": _commit(),
    }


def _commit() -> str | None:
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True, check=False).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+" if changed else commit


def targets_table(results: dict[str, Any], wanted: Sequence[Target]) -> Table:
    """These targets and whether the medians meet them, with the range over the rounds; at most 100 columns wide."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("figure", "measured", "rounds", "target", "goal", "met"):
        table.add_column(name, justify="left" if name in ("figure", "met") else "right")
    for target in wanted:
        value = value_of(results, target.name)
        sign = ">=" if target.at_least else "<="
        met = "[green]yes[/]" if target.met(value) else "[bold red]no[/]"
        goal = "" if target.goal is None else f"{target.goal:g}"
        rounds = "-".join(f"{end:.3f}" for end in results.get("spread", {}).get(target.name, ()))
        table.add_row(target.name, f"{value:.3f}", rounds, f"{sign} {target.bound:.4g}", goal, met)
    return table


def costs_table(results: dict[str, Any]) -> Table:
    """CPU per user, throughput, latency and batch size of raw search, echo and serving."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("what", "CPU us/user", "users/s", "p50 ms", "p99 ms", "batch"):
        table.add_column(name, justify="left" if name == "what" else "right")
    for what, label in _LABELS.items():
        cost = results["costs"][what]
        rest = [f"{cost[name]:.1f}" if name in cost else "" for name in ("p50_ms", "p99_ms", "batch")]
        table.add_row(label, f"{cost['cpu_us']:,.0f}", f"{cost['users_per_s']:,.0f}", *rest)
    return table


def notes(results: dict[str, Any]) -> list[str]:
    """What the tables leave out: one caller, memory, and why the figures are not to be quoted, if so."""
    alone, memory, setup = results["one_caller"], results["memory"], results["setup"]
    lines = [
        f"one caller: p50 {alone['p50_ms']:.2f} ms (raw search {alone['raw_p50_ms']:.2f}, "
        f"echo {alone['echo_p50_ms']:.2f})",
        f"memory of the serving processes: {memory['start_mb']:,.0f} MiB at start, {memory['before_mb']:,.0f} "
        f"before and {memory['after_mb']:,.0f} after {memory['requests']:,} requests",
    ]
    if setup["items"] < LEAST_ITEMS or setup["quick"]:
        lines.append(f"a trial, not to be quoted: {setup['items']:,} items{', few users' if setup['quick'] else ''}")
    return lines


def draw(results: dict[str, Any], path: Path, title: str) -> None:
    """Plot throughput against latency for each number of callers."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter, StrMethodFormatter

    points = results["sweep"]
    throughput = [point["users_per_s"] for point in points]
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for name, marker in (("p99_ms", "s"), ("p50_ms", "o")):
        axes.plot(throughput, [point[name] for point in points], marker=marker, label=name.partition("_")[0])
    for point in points:
        place = (point["users_per_s"], point["p50_ms"])
        axes.annotate(f"{point['callers']:.0f}", place, textcoords="offset points", xytext=(0, -14), ha="center")
    axes.set(xlabel="users/s", ylabel="latency, ms", yscale="log", title=title)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlim(left=0)
    axes.margins(y=0.12)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(title="numbers: callers", loc="upper left")
    figure.savefig(path, dpi=120)
    plt.close(figure)
