"""What a benchmark leaves behind: targets, the machine it ran on, JSON, a table and a plot."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from recserve_server_ext import cpu

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
        Target("memory.growth_mb", 16, 0, at_least=False),
    ]


def value_of(results: dict[str, Any], name: str) -> float:
    """The figure at a path such as ``known.ratio_to_raw``."""
    group, _, key = name.partition(".")
    return float(results[group][key])


def machine() -> dict[str, Any]:
    """Hardware, versions and commit."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    return {
        "cpu": cpu.model_name(),
        "cores": cpu.usable_cores(),
        "int8_arithmetic": cpu.int8_arithmetic(),
        "cpu_flags": sorted(flag for flag in cpu.flags() if flag.startswith(("avx", "amx", "fma"))),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
        "commit": commit or None,
    }


def targets_table(results: dict[str, Any]) -> Table:
    """The targets and whether they are met, at most 100 columns wide."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("figure", "measured", "target", "goal", "met"):
        table.add_column(name, justify="left" if name in ("figure", "met") else "right")
    for target in targets(results):
        value = value_of(results, target.name)
        sign = ">=" if target.at_least else "<="
        met = "[green]yes[/]" if target.met(value) else "[bold red]no[/]"
        goal = "" if target.goal is None else f"{target.goal:g}"
        table.add_row(target.name, f"{value:.3f}", f"{sign} {target.bound:.4g}", goal, met)
    return table


def costs_table(results: dict[str, Any]) -> Table:
    """CPU per user and throughput of raw search, echo and serving."""
    known, texts = results["known"], results["texts"]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("what", "CPU us/user", "users/s", "p50 ms", "p99 ms"):
        table.add_column(name, justify="left" if name == "what" else "right")
    rows = [
        ("raw hnswlib, known items", known["raw_cpu_us"], known["raw_users_per_s"], None, None),
        ("Triton echo", known["echo_cpu_us"], known["echo_users_per_s"], None, None),
        ("recserve, known items", known["serve_cpu_us"], known["serve_users_per_s"], known["p50_ms"], known["p99_ms"]),
        ("raw encode + search, 5 texts", texts["raw_cpu_us"], texts["raw_users_per_s"], None, None),
        ("recserve, 5 texts", texts["serve_cpu_us"], texts["serve_users_per_s"], texts["p50_ms"], texts["p99_ms"]),
    ]
    for what, cpu_us, users, p50, p99 in rows:
        latencies = ["" if value is None else f"{value:.1f}" for value in (p50, p99)]
        table.add_row(what, f"{cpu_us:,.0f}", f"{users:,.0f}", *latencies)
    return table


def draw(results: dict[str, Any], path: Path, title: str) -> None:
    """Plot throughput against latency for each number of callers."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    points = results["sweep"]
    throughput = [point["users_per_s"] for point in points]
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for name, marker in (("p50_ms", "o"), ("p99_ms", "s")):
        axes.plot(throughput, [point[name] for point in points], marker=marker, label=name.partition("_")[0])
    for point in points:
        place = (point["users_per_s"], point["p99_ms"])
        axes.annotate(f"{point['callers']:.0f}", place, textcoords="offset points", xytext=(0, 7), ha="center")
    axes.set(xlabel="users/s", ylabel="latency, ms", yscale="log", title=title)
    axes.set_xlim(left=0)
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend(title="numbers: callers")
    figure.savefig(path, dpi=120)
    plt.close(figure)
