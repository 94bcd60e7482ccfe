"""The plot of `recserve bench retrieve`: recall against speed, latency through a swap, and growth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_COLOURS = {"hnsw": "tab:blue", "scan": "tab:orange", "exact": "tab:green"}
_MARKERS = {"hnsw": "o", "scan": "s", "exact": "^"}
_KINDS = ("interests", "random")
_BATCHES = ("1", "8", "32")


def draw(results: dict[str, Any], path: Path, title: str) -> None:
    """Draw it into a PNG: a line for each kind of users with a column for each batch, and a line of the rest."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=(14, 12), layout="constrained")
    grid = figure.add_gridspec(3, 3)
    for line, kind in enumerate(_KINDS):
        for column, batch in enumerate(_BATCHES):
            axis = figure.add_subplot(grid[line, column])
            _draw_curves(axis, results["engines"], kind, batch)
            axis.set_title(f"{kind}, batches of {batch}" if batch != "1" else f"{kind}, one at a time")
    figure.axes[0].legend(fontsize=8, loc="lower left")
    if swap := results.get("swap_under_load"):
        _draw_swap(figure.add_subplot(grid[2, :2]), swap)
    _draw_growth(figure.add_subplot(grid[2, 2]), results["scale"])
    figure.suptitle(title)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _draw_curves(axis: Any, engines: dict[str, Any], kind: str, batch: str) -> None:
    """Recall against users/s, a line for each index; what `auto` chose is ringed."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    rings = {"both": "black", "interests": "grey"}
    for name, indexes in ((name, _by_index(engines[name][kind])) for name in _COLOURS):
        for number, (index, points) in enumerate(indexes.items()):
            speeds = [point["users_per_s"][batch] for point in points]
            recalls = [point["recall_at_10"] for point in points]
            line = ("-", "--", ":")[number % 3]
            axis.plot(
                speeds, recalls, _MARKERS[name] + line, markersize=5, color=_COLOURS[name], label=f"{name} {index}"
            )
            for point, speed, recall in zip(points, speeds, recalls, strict=True):
                for wanted in set(rings) & set(point["chosen_for"]):
                    size = 13 if wanted == "both" else 17
                    style = {"markersize": size, "markerfacecolor": "none", "color": rings[wanted]}
                    axis.plot(speed, recall, "o", label=f"auto, {wanted}", **style)
    axis.set(xlabel="users/s", ylabel="recall@10", xscale="log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(labelsize=8)
    axis.grid(visible=True, which="both", alpha=0.3)


def _by_index(points: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The points of each graph, or of each number of lists and codes, by rising recall."""
    found: dict[str, list[dict[str, Any]]] = {}
    for point in sorted(points, key=lambda point: point["recall_at_10"]):
        of = point["parameters"]
        name = f"M {of['M']}" if "M" in of else " ".join(f"{of[x]} {x}" for x in ("lists", "codes") if x in of)
        found.setdefault(name, []).append(point)
    return found


def _draw_swap(axis: Any, swap: dict[str, Any]) -> None:
    line = swap["timeline"]
    for name in ("p99_ms", "p50_ms"):
        axis.plot(line["second"], line[name], label=name.partition("_")[0])
    axis.axvspan(line["compaction_started_s"], line["swapped_s"], alpha=0.15, label="compaction until swap")
    axis.set(xlabel="seconds", ylabel="latency, ms", title="a swap under load", ylim=(0, None))
    axis.grid(visible=True, alpha=0.3)
    axis.legend(fontsize=8)


def _draw_growth(axis: Any, scale: dict[str, Any]) -> None:
    for name, colour in _COLOURS.items():
        found = [(point["items"], point["engines"].get(name, {}).get("cpu_us_at_recall")) for point in scale["points"]]
        points = [(items, cost) for items, cost in found if cost is not None]
        if points:
            axis.plot(*zip(*points, strict=True), _MARKERS[name] + "-", color=colour, label=name)
    axis.set(xlabel="items", ylabel="CPU us a user", xscale="log", yscale="log")
    axis.set_title(f"growth at recall@10 {scale['recall']}")
    axis.grid(visible=True, which="both", alpha=0.3)
    axis.legend(fontsize=8)
