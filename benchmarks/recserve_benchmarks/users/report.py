"""What `recserve bench users` leaves behind: targets, tables and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from rich.table import Table

from recserve_benchmarks.harness.report import LEAST_ITEMS, Target

TARGETS: Final = (
    Target("record.batched_ratio_to_raw", 0.25, None, at_least=True),
    Target("record.single_per_s", 2000, None, at_least=True),
    Target("recommend_by_user.50.ratio_to_caller_history", 0.7, None, at_least=True),
)
_RECORD: Final = {
    "raw_per_s": "raw SQLite, 100 a transaction: interactions/s",
    "raw_grouped_per_s": "raw SQLite, 3,200 a transaction: interactions/s",
    "batched_per_s": "100 a request: interactions/s",
    "single_per_s": "one a request, 32 callers: interactions/s",
    "single_p50_ms": "one a request: p50 ms",
    "single_p99_ms": "one a request: p99 ms",
}


def _stores(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {"SQLite": results, **({"PostgreSQL": results["postgres"]} if "postgres" in results else {})}


def recommend_table(results: dict[str, Any]) -> Table:
    """Users by id, the same from the caller's history, and by id a second time."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("store", "history", "users/s", "p50 ms", "p99 ms", "from caller/s", "ratio", "again/s", "ratio"):
        table.add_column(name, justify="left" if name == "store" else "right")
    for store, figures in _stores(results).items():
        for events, of in figures["recommend_by_user"].items():
            table.add_row(
                store,
                events,
                f"{of['per_s']:,.0f}",
                f"{of['p50_ms']:.1f}",
                f"{of['p99_ms']:.1f}",
                f"{of['caller_per_s']:,.0f}",
                f"{of['ratio_to_caller_history']:.2f}",
                f"{of['warm_per_s']:,.0f}",
                f"{of['warm_ratio_to_caller_history']:.2f}",
            )
    return table


def record_table(results: dict[str, Any]) -> Table:
    """Recording and erasing."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    stores = _stores(results)
    table.add_column("what")
    for store in stores:
        table.add_column(store, justify="right")
    for name, label in _RECORD.items():
        table.add_row(label, *(f"{of['record'][name]:,.1f}" for of in stores.values()))
    for name in ("p50_ms", "p99_ms"):
        label = f"erase a user of 50 interactions: {name.partition('_')[0]} ms"
        table.add_row(label, *(f"{of['erase'][name]:,.1f}" for of in stores.values()))
    return table


def notes(results: dict[str, Any]) -> list[str]:
    """What was in the store, and why the figures are not to be quoted, if so."""
    setup = results["setup"]
    lines = [f"{results['interactions_before']:,} interactions and {setup['users']:,} users in the store beforehand"]
    for store, filled in results["filled"].items():
        lines.append(f"{store} filled in {filled['fill_s']:.0f} s, {filled['size_bytes'] / 1e6:,.0f} MB")
    if setup["items"] < LEAST_ITEMS or setup["quick"]:
        lines.append(f"a trial, not to be quoted: {setup['items']:,} items{', few users' if setup['quick'] else ''}")
    return lines


def draw(results: dict[str, Any], path: Path, title: str) -> None:
    """Bars of users/s by length of history, and of interactions/s."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import StrMethodFormatter

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    stores = _stores(results)
    bars: list[tuple[str, list[float]]] = []
    for store, of in stores.items():
        by_user = of["recommend_by_user"].values()
        bars.append((f"by id, {store}", [one["per_s"] for one in by_user]))
        bars.append((f"by id again, {store}", [one["warm_per_s"] for one in by_user]))
    bars.append(("history from the caller", [one["caller_per_s"] for one in results["recommend_by_user"].values()]))
    width = 0.8 / len(bars)
    for number, (label, heights) in enumerate(bars):
        left.bar([at + number * width for at in range(len(heights))], heights, width, label=label)
    sizes = list(results["recommend_by_user"])
    left.set_xticks([at + 0.4 - width / 2 for at in range(len(sizes))], sizes)
    left.set(xlabel="interactions of the user", ylabel="users/s")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    rates = [("raw\nSQLite", results["record"]["raw_per_s"])]
    for store, of in stores.items():
        rates += [(f"100 a\nrequest,\n{store}", of["record"]["batched_per_s"])]
        rates += [(f"1 a\nrequest,\n{store}", of["record"]["single_per_s"])]
    right.bar([label for label, _ in rates], [rate for _, rate in rates])
    right.set(ylabel="interactions/s")
    for axes in (left, right):
        axes.grid(visible=True, axis="y", alpha=0.3)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)
