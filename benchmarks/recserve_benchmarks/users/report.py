"""What `recserve bench users` shows: tables of recommending and recording, targets, and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from rich.console import RenderableType
from rich.table import Table

from recserve_benchmarks.harness.report import Target, cautions, picture, table, targets_table, title

TARGETS: Final = (
    Target("record.batched_ratio_to_raw", 0.25),
    Target("record.single_per_s", 2000),
    Target("recommend_by_user.50.ratio_to_caller_history", 0.7),
)
_RECORD: Final = {
    "raw_per_s": "raw SQLite, 100 a transaction: interactions/s",
    "raw_grouped_per_s": "raw SQLite, 3,200 a transaction: interactions/s",
    "batched_per_s": "100 a request: interactions/s",
    "single_per_s": "one a request, 32 callers: interactions/s",
    "single_p50_ms": "one a request: p50 ms",
    "single_p99_ms": "one a request: p99 ms",
}


def parts(results: dict[str, Any]) -> list[RenderableType]:
    """Lines and tables, at most 100 columns wide."""
    of = results["setup"]
    return [
        title(results),
        f"{results['interactions_before']:,} interactions and {of['users']:,} users in the store beforehand",
        *(f"{store} filled in {fill_s:.0f} s" for store, fill_s in results["fill_s"].items()),
        *cautions(results),
        recommend_table(results),
        record_table(results),
        targets_table(results, TARGETS),
    ]


def recommend_table(results: dict[str, Any]) -> Table:
    """Users by id, the same with the caller's history, and by id a second time."""
    rows = []
    for store, figures in _stores(results).items():
        for events, of in figures["recommend_by_user"].items():
            speed = (f"{of['per_s']:,.0f}", f"{of['p50_ms']:.1f}", f"{of['p99_ms']:.1f}", f"{of['cpu_us']:,.0f}")
            caller = (f"{of['caller_per_s']:,.0f}", f"{of['ratio_to_caller_history']:.2f}")
            warm = (f"{of['warm_per_s']:,.0f}", f"{of['warm_ratio_to_caller_history']:.2f}")
            rows.append((store, events, *speed, *caller, *warm))
    headings = (
        "store",
        "history",
        "users/s",
        "p50 ms",
        "p99 ms",
        "CPU us",
        "from caller/s",
        "ratio",
        "again/s",
        "ratio",
    )
    return table(headings, rows)


def record_table(results: dict[str, Any]) -> Table:
    """Recording."""
    stores = _stores(results)
    rows = [(label, *(f"{of['record'][name]:,.1f}" for of in stores.values())) for name, label in _RECORD.items()]
    return table(("what", *stores), rows)


def draw(results: dict[str, Any], path: Path) -> None:
    """Plot users/s by length of history, and interactions/s."""
    stores, by_user = _stores(results), results["recommend_by_user"]
    with picture(path, f"recserve, {title(results)}", 1, 2, (11, 5)) as (recommend, record):
        rates = {"history from the caller": [of["caller_per_s"] for of in by_user.values()]}
        for store, figures in stores.items():
            of_store = figures["recommend_by_user"].values()
            rates[f"by id, {store}"] = [of["per_s"] for of in of_store]
            rates[f"by id again, {store}"] = [of["warm_per_s"] for of in of_store]
        for label, heights in rates.items():
            recommend.plot(list(by_user), heights, "o-", label=label)
        recommend.set(xlabel="interactions of the user", ylabel="users/s", ylim=(0, None))
        recommend.legend()
        bars = {"raw\nSQLite": results["record"]["raw_per_s"]}
        for store, of in stores.items():
            bars[f"100 a\nrequest,\n{store}"] = of["record"]["batched_per_s"]
            bars[f"1 a\nrequest,\n{store}"] = of["record"]["single_per_s"]
        record.bar(list(bars), list(bars.values()))
        record.set(ylabel="interactions/s")


def _stores(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {"SQLite": results, **({"PostgreSQL": results["postgres"]} if "postgres" in results else {})}
