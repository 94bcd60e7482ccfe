"""What `recserve bench retrieve` shows: curves of the engines, growth, targets, and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from rich.console import RenderableType

from recserve_benchmarks.harness.report import Target, cautions, matrix, picture, targets_table, title
from recserve_benchmarks.retrieve.curves import ENGINES
from recserve_benchmarks.retrieve.over_engine import SHARES

_COLOURS: Final = {
    "hnsw": "tab:blue",
    "scan": "tab:orange",
    "exact": "tab:green",
    "milvus": "tab:purple",
    "faiss_hnsw": "tab:cyan",
    "usearch": "tab:brown",
}

TARGETS: Final = (
    Target("user_vectors.best_to_hnsw", 5, 8),
    Target("ratio_to_raw.no_delta", 0.95),
    Target("ratio_to_raw.delta_1pct", 0.7),
    *(Target(f"filtered.{share}.recall_at_10", 0.98) for share in SHARES),
    *(Target(f"filtered.{share}.ratio_to_unfiltered", 0.25) for share in SHARES),
    Target("swap_under_load.failed", 0, at_least=False),
    Target("swap_under_load.p99_ratio", 3, at_least=False),
)


def parts(results: dict[str, Any]) -> list[RenderableType]:
    """Lines and tables, at most 100 columns wide; the curves are in the plot and the JSON."""
    found: list[RenderableType] = [title(results)]
    for size in results["sizes"]:
        found += [
            f"{size['items']:,} items: chosen {size['chosen']}, {_shown(size)}; started in {size['start_s']:.2f} s",
            f"  {size['private_mb']:,.0f} MiB private and {size['mapped_mb']:,.0f} MiB mapped; "
            f"{size['disk_mb']:,.0f} MiB on disk",
            matrix(size["at_recall"], f"at recall@10 {results['recall']}"),
        ]
    for step in results["cpu_growth"]:
        grown = ", ".join(f"{name} {step[name]:.1f} times" for name in ENGINES if name in step)
        found.append(f"CPU a user at equal recall, {step['from']:,} to {step['to']:,} items: {grown}")
    swap = results["swap_under_load"]
    found.append(
        f"swap: p99 {swap['p99_before_ms']:.1f} ms before, {swap['p99_during_ms']:.1f} during "
        f"{swap['compaction_s']:.1f} s of compaction, longest {swap['longest_during_ms']:.0f}; "
        f"{swap['requests']:,} requests"
    )
    return [*found, *cautions(results), targets_table(results, TARGETS)]


def _shown(size: dict[str, Any]) -> str:
    """The parameters that were chosen."""
    (chosen,) = (point for points in size["engines"].values() for point in points if point["is_chosen"])
    return " ".join(f"{name} {value}" for name, value in chosen["parameters"].items())


def draw(results: dict[str, Any], path: Path) -> None:
    """Plot recall against speed of the real items, latency through the swap, and growth."""
    real = next(size for size in results["sizes"] if size["items"] == results["setup"]["real"])
    with picture(path, title(results), 2, 2, (12, 9)) as (alone, together, swap, grown):
        for axes, batch in ((alone, "1"), (together, "32")):
            _draw_curves(axes, real["engines"], batch)
            axes.set(xlabel=f"users/s, batches of {batch}", ylabel="recall@10, worse kind of users", xscale="log")
        _draw_swap(swap, results["swap_under_load"])
        for name, colour in _COLOURS.items():
            reached = [(of["items"], of["at_recall"][name]) for of in results["sizes"] if name in of["at_recall"]]
            if reached:
                cpu_us = [of["cpu_us_per_user"] for _, of in reached]
                grown.plot([items for items, _ in reached], cpu_us, "o-", color=colour, label=name)
        grown.set(xlabel="items", ylabel=f"CPU us a user at {results['recall']}", xscale="log", yscale="log")
        for axes in (alone, swap, grown):
            axes.legend(fontsize=8)


def _draw_curves(axes: Any, engines: dict[str, Any], batch: str) -> None:
    """Recall against users/s, a line for each index; what the index build would choose is ringed."""
    for name, points in engines.items():
        lines: dict[str, list[tuple[float, float]]] = {}
        for point in points:
            speed, recall = point["users_per_s"][batch], min(point["recall_at_10"].values())
            of = point["parameters"]
            lines.setdefault(f"{name} M {of['M']}" if "M" in of else name, []).append((recall, speed))
            if point["is_chosen"]:
                axes.plot(speed, recall, "ko", markersize=13, markerfacecolor="none", label="chosen")
        for style, (label, line) in zip(("o-", "o--"), lines.items(), strict=False):
            recalls, speeds = zip(*sorted(line), strict=True)
            axes.plot(speeds, recalls, style, color=_COLOURS[name], label=label)


def _draw_swap(axes: Any, swap: dict[str, Any]) -> None:
    line = swap["timeline"]
    for name in ("p99_ms", "p50_ms"):
        axes.plot(line["second"], line[name], label=name.partition("_")[0])
    axes.axvspan(line["compaction_started_s"], line["swapped_s"], alpha=0.15, label="compaction until swap")
    axes.set(xlabel="seconds", ylabel="latency, ms", title="a swap under load", ylim=(0, None))
