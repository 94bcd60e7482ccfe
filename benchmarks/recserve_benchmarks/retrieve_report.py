"""Tables and plots of `recserve bench retrieve`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from recserve_benchmarks.report import Target

_SHOWN = ("M", "ef", "lists", "nprobe", "rescored")


def targets(results: dict[str, Any]) -> list[Target]:
    """What has to be reached."""
    found = [
        Target("user_vectors.best_to_hnsw", 4, 8, at_least=True),
        Target("ratio_to_raw.no_delta", 0.9, None, at_least=True),
        Target("ratio_to_raw.delta_1pct", 0.7, None, at_least=True),
    ]
    for share in results["filtered"]:
        found.append(Target(f"filtered.{share}.recall_at_10", 0.98, None, at_least=True))
        found.append(Target(f"filtered.{share}.ratio_to_unfiltered", 0.25, None, at_least=True))
    if "swap_under_load" in results:
        found += [
            Target("swap_under_load.failed", 0, None, at_least=False),
            Target("swap_under_load.p99_ratio", 3, None, at_least=False),
        ]
    return found


def curves_table(results: dict[str, Any]) -> Table:
    """Every engine and its parameters: recall of both kinds of users, users/s by batch; at most 100 columns wide."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("engine", "parameters"):
        table.add_column(name)
    for name in ("interests", "random", "1 user", "8", "32 users/s", "random, 32"):
        table.add_column(name, justify="right")
    table.add_column("")
    for engine, kinds in results["engines"].items():
        for point, other in zip(kinds["interests"], kinds["random"], strict=True):
            parameters = " ".join(
                f"{name} {point['parameters'][name]}" for name in _SHOWN if name in point["parameters"]
            )
            speeds = [f"{point['users_per_s'][batch]:,.0f}" for batch in ("1", "8", "32")]
            recalls = [f"{one['recall_at_10']:.4f}" for one in (point, other)]
            last = f"{other['users_per_s']['32']:,.0f}"
            table.add_row(engine, parameters, *recalls, *speeds, last, "chosen" if point["is_chosen"] else "")
    return table


def scale_table(results: dict[str, Any]) -> Table:
    """Growth with the number of items."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in (
        "items",
        "synthetic",
        "recall",
        "users/s",
        "CPU us/user",
        "build s",
        "start s",
        "memory MiB",
        "disk MiB",
    ):
        table.add_column(name, justify="right")
    for point in results["scale"]["points"]:
        table.add_row(
            f"{point['items']:,}",
            f"{point['synthetic']:,}",
            f"{min(point['recall_at_10'].values()):.4f}",
            f"{point['users_per_s']:,.0f}",
            f"{point['cpu_us_per_user']:,.0f}",
            f"{point['build_s']:.1f}",
            f"{point['start_s']:.2f}",
            f"{point['memory_mb']:,.0f}",
            f"{point['disk_mb']:,.0f}",
        )
    return table


def notes(results: dict[str, Any]) -> list[str]:
    """What the tables leave out."""
    best, ratio = results["user_vectors"], results["ratio_to_raw"]
    lines = [
        f"chosen: {best['chosen_users_per_s']:,.0f} users/s at recall@10 {best['chosen_recall_at_10']:.4f}; "
        f"hnswlib's best: {best['hnsw_users_per_s']:,.0f} (batches of 32, interests)",
        f"retrieval over the bare engine ({ratio['width']} items asked for): {ratio['no_delta']:.3f}; "
        f"with a delta of 1%: {ratio['delta_1pct']:.3f}",
        f"retrieval over a bare call for ten items: {ratio['no_delta_to_ten']:.3f}",
    ]
    if swap := results.get("swap_under_load"):
        lines.append(
            f"swap: p99 {swap['p99_before_ms']:.1f} ms before, {swap['p99_during_ms']:.1f} during "
            f"{swap['compaction_s']:.1f} s of compaction, longest {swap['longest_during_ms']:.0f}"
        )
        lines.append(f"swap: {swap['requests']:,} requests, {swap['failed']} failed; {swap['upserts']:,} upserts")
    setup = results["setup"]
    if setup["items"] < 60_000 or setup["quick"]:
        lines.append(f"a trial, not to be quoted: {setup['items']:,} items{', few users' if setup['quick'] else ''}")
    return lines


def draw(results: dict[str, Any], path: Path, title: str) -> None:
    """Recall against speed for both kinds of users, and the latency through the swap."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    swap = results.get("swap_under_load")
    figure, axes = plt.subplots(1, 3 if swap else 2, figsize=(15 if swap else 10, 4.5), layout="constrained")
    for axis, kind in zip(axes, ("interests", "random"), strict=False):
        for name, marker in (("hnsw", "o"), ("scan", "s"), ("exact", "^")):
            points = results["engines"][name][kind]
            for batch, style in (("32", "-"), ("1", ":")):
                axis.plot(
                    [point["users_per_s"][batch] for point in points],
                    [point["recall_at_10"] for point in points],
                    marker + style,
                    markersize=5,
                    color={"hnsw": "tab:blue", "scan": "tab:orange", "exact": "tab:green"}[name],
                    label=f"{name}, batches of {batch}",
                )
        axis.set(xlabel="users/s", ylabel="recall@10", title=kind, xscale="log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(visible=True, which="both", alpha=0.3)
    axes[1].legend(fontsize=8, loc="lower left")
    if swap:
        _draw_swap(axes[2], swap)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_swap(axis: Any, swap: dict[str, Any]) -> None:
    line = swap["timeline"]
    for name in ("p99_ms", "p50_ms"):
        axis.plot(line["second"], line[name], label=name.partition("_")[0])
    axis.axvspan(line["compaction_started_s"], line["swapped_s"], alpha=0.15, label="compaction until swap")
    axis.set(xlabel="seconds", ylabel="latency, ms", title="a swap under load", ylim=(0, None))
    axis.grid(visible=True, alpha=0.3)
    axis.legend(fontsize=8)
