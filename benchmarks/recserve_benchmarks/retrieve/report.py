"""What `recserve bench retrieve` shows: curves of the engines, growth, targets, and a plot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rich.console import RenderableType
from rich.table import Table

from recserve_benchmarks.harness.report import Target, cautions, picture, table, targets_table, title
from recserve_benchmarks.retrieve.over_engine import SHARES

#: Parameters that are shown, and how: a table has 100 columns.
_SHOWN: Final = {"M": "M", "ef": "ef", "lists": "L", "codes": "C", "nprobe": "P", "rescored": "R"}
_COLOURS: Final = {"hnsw": "tab:blue", "scan": "tab:orange", "exact": "tab:green", "milvus": "tab:purple"}

TARGETS: Final = (
    Target("user_vectors.best_to_hnsw", 4, 8),
    Target("ratio_to_raw.no_delta", 0.9),
    Target("ratio_to_raw.delta_1pct", 0.7),
    *(Target(f"filtered.{share}.recall_at_10", 0.98) for share in SHARES),
    *(Target(f"filtered.{share}.ratio_to_unfiltered", 0.25) for share in SHARES),
    Target("swap_under_load.failed", 0, at_least=False),
    Target("swap_under_load.p99_ratio", 3, at_least=False),
)


def parts(results: dict[str, Any]) -> list[RenderableType]:
    """Lines and tables, at most 100 columns wide."""
    return [
        title(results),
        curves_table(results),
        *notes(results),
        growth_table(results),
        targets_table(results, TARGETS),
    ]


def curves_table(results: dict[str, Any]) -> Table:
    """Points of every engine at every size: recall by kind of users, users/s by batch, CPU time a user."""
    rows = []
    for size in results["sizes"]:
        for engine, points in size["engines"].items():
            for point in points:
                recalls = (f"{point['recall_at_10'][kind]:.4f}" for kind in ("interests", "random"))
                speeds = (f"{speed:,.0f}" for speed in point["users_per_s"].values())
                cpu_us, mark = f"{point['cpu_us_per_user']:,.0f}", "*" if point["is_chosen"] else ""
                rows.append(
                    (f"{size['items']:,}", engine, _shown(point["parameters"]), *recalls, *speeds, cpu_us, mark)
                )
    figures = ("interests", "random", "users/s", "by 8", "by 32", "CPU us", "")
    return table(("items", "engine", "parameters", *figures), rows, texts=3)


def growth_table(results: dict[str, Any]) -> Table:
    """Every engine at every size: cost at equal recall, and the time to build it and to choose its parameters."""
    rows = []
    for size in results["sizes"]:
        for engine, of in size["at_recall"].items():
            costs = (f"{of['users_per_s']:,.0f}", f"{of['cpu_us_per_user']:,.0f}")
            built, mark = f"{size['built_s'].get(engine, 0.0):.1f}", "chosen" if engine == size["chosen"] else ""
            rows.append((f"{size['items']:,}", engine, *costs, built, mark))
    headings = ("items", "engine", f"users/s at {results['recall']}", "CPU us/user", "built in s", "")
    return table(headings, rows, texts=2)


def notes(results: dict[str, Any]) -> Iterator[str]:
    """What the tables leave out: starts, memory, growth and the swap."""
    yield "of scan: L lists, C codes an item, P lists probed, R items rescored where ten are wanted"
    yield "* = what the index build would choose; half of the users of each kind"
    ratio, swap = results["ratio_to_raw"], results["swap_under_load"]
    yield (
        f"retrieval over the bare engine ({ratio['width']} items asked for): {ratio['no_delta']:.3f}; "
        f"with a delta of 1%: {ratio['delta_1pct']:.3f}"
    )
    yield (
        f"swap: p99 {swap['p99_before_ms']:.1f} ms before, {swap['p99_during_ms']:.1f} during "
        f"{swap['compaction_s']:.1f} s of compaction, longest {swap['longest_during_ms']:.0f}"
    )
    yield f"swap: {swap['requests']:,} requests, {swap['failed']} failed; {swap['upserts']:,} upserts"
    for size in results["sizes"]:
        yield (
            f"{size['items']:,} items: started in {size['start_s']:.2f} s; {size['private_mb']:,.0f} MiB private and "
            f"{size['mapped_mb']:,.0f} MiB mapped; {size['disk_mb']:,.0f} MiB on disk"
        )
    for step in results["cpu_growth"]:
        grown = ", ".join(f"{name} {step[name]:.1f} times" for name in _COLOURS if name in step)
        yield f"CPU a user at equal recall, {step['from']:,} to {step['to']:,} items: {grown}"
    yield from cautions(results)


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


def _shown(parameters: dict[str, int]) -> str:
    return " ".join(f"{short} {parameters[name]}" for name, short in _SHOWN.items() if name in parameters)
