"""What `recserve bench overload` shows: a table for each kind of request, targets, and a plot of goodput and p99."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from rich.console import RenderableType

from recserve_benchmarks.harness.report import Target, cautions, number, picture, table, targets_table, title

_COLUMNS: Final = (
    "offered_per_s", "goodput_per_s", "goodput_ratio", "p50_ms", "p99_ms", "p99_ratio", "refused_per_s",
    "refusal_p99_ms", "server_refused_per_s", "server_refusal_p99_ms", "missed_share", "recovery_s", "writes_ratio",
    "writes_p99_ms", "server_cpu_s", "growth_mb",
)  # fmt: skip


def targets(results: dict[str, Any]) -> list[Target]:
    """What is to be reached at ten times the capacity, for each kind of request."""
    return [
        target
        for kind in results["kinds"]
        for target in (
            Target(f"kinds.{kind}.loads.10.goodput_ratio", 0.9, 0.95),
            Target(f"kinds.{kind}.loads.10.p99_ratio", 2, at_least=False),
            Target(f"kinds.{kind}.loads.10.refusal_p99_ms", 20, at_least=False),
            Target(f"kinds.{kind}.loads.10.recovery_s", 0.5, at_least=False),
            Target(f"kinds.{kind}.loads.10.writes_ratio", 1),
            Target(f"kinds.{kind}.loads.10.growth_mb", 16, 0, at_least=False),
        )
    ]


def parts(results: dict[str, Any]) -> list[RenderableType]:
    """Lines and tables."""
    found: list[RenderableType] = [title(results)]
    for kind, of in results["kinds"].items():
        loads = of["loads"]
        rows = [(name, *(number(load[name]) for load in loads.values())) for name in _COLUMNS]
        heading = f"{kind}: capacity {number(of['capacity_per_s'])} a second; load in multiples of it"
        found.append(table(("", *loads), rows, title=heading))
    return [*found, *cautions(results), targets_table(results, targets(results))]


def draw(results: dict[str, Any], path: Path) -> None:
    """Plot goodput and p99 against the load, for each kind of request."""
    with picture(path, f"recserve under overload, {title(results)}", 1, 2, (10, 4)) as (goodput, p99):
        for kind, of in results["kinds"].items():
            times = [float(name) for name in of["loads"]]
            loads = of["loads"].values()
            goodput.plot(times, [load["goodput_ratio"] for load in loads], "o-", label=kind)
            p99.plot(times, [load["p99_ms"] for load in loads], "o-", label=kind)
        for axes in (goodput, p99):
            axes.set_xscale("log")
            axes.set_xticks([0.5, 1, 2, 5, 10], ["0.5", "1", "2", "5", "10"])
            axes.set_xlabel("load, multiples of the capacity")
            axes.legend()
        goodput.set(ylabel="goodput, share of the capacity")
        goodput.set_ylim(bottom=0)
        p99.set(ylabel="p99 of what is answered, ms")
        p99.set_ylim(bottom=0)
