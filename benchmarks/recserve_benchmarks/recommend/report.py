"""What `recserve bench recommend` shows: costs, targets, and a plot of throughput against latency."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import RenderableType

from recserve_benchmarks.harness.report import Target, cautions, matrix, picture, targets_table, title


def targets(results: dict[str, Any]) -> list[Target]:
    """What is to be reached."""
    allowed_ms = results["one_caller"]["allowed_ms"]
    return [
        Target("known.ratio_to_raw", 0.8, 0.85),
        Target("known.recall_at_10", 0.985),
        Target("known.overhead_to_echo", 1.8, 1.2, at_least=False),
        Target("chosen.raw_to_chosen", 2.6, 3.5),
        Target("chosen.overhead_to_echo", 1.5, 1.2, at_least=False),
        Target("texts.ratio_to_raw", 0.8, 0.9),
        Target("one_caller.p50_ms", allowed_ms, at_least=False),
        Target("chosen.recall_at_10", 0.985),
        Target("chosen.p50_ms", allowed_ms, at_least=False),
        Target("memory.growth_mb", 16, 0, at_least=False),
    ]


def parts(results: dict[str, Any]) -> list[RenderableType]:
    """Lines and tables, at most 100 columns wide."""
    of, alone, memory = results["setup"], results["one_caller"], results["memory"]
    return [
        title(results),
        matrix(results["costs"], "users"),
        *(f"{of_name}: {_words(of[of_name])}" for of_name in ("engine", "chosen_engine")),
        f"one caller: p50 {alone['p50_ms']:.2f} ms (raw search {alone['raw_p50_ms']:.2f}, "
        f"echo {alone['echo_p50_ms']:.2f})",
        f"texts: the call of the encoder takes {results['texts']['encoder_share']:.0%} of a request's time",
        f"ready {memory['start_s']:.1f} s after the start",
        f"memory of the serving processes: {memory['start_mb']:,.0f} MiB at start, {memory['before_mb']:,.0f} "
        f"before and {memory['after_mb']:,.0f} after {memory['requests']:,} requests",
        *cautions(results),
        targets_table(results, targets(results)),
    ]


def draw(results: dict[str, Any], path: Path) -> None:
    """Plot throughput against latency for each number of callers."""
    points = results["sweep"]
    throughput = [point["users_per_s"] for point in points]
    with picture(path, f"recserve, {title(results)}", 1, 1, (8, 5)) as (axes,):
        for name in ("p99_ms", "p50_ms"):
            axes.plot(throughput, [point[name] for point in points], "o-", label=name.partition("_")[0])
        for point in points:
            axes.annotate(point["callers"], (point["users_per_s"], point["p50_ms"]))
        axes.set(xlabel="users/s", ylabel="latency, ms", yscale="log")
        axes.set_xlim(left=0)
        axes.legend(title="numbers: callers", loc="upper left")


def _words(engine: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in engine.items())
