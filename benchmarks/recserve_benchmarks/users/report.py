"""What `recserve bench users` shows: tables of recommending and recording, targets, and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from rich.console import RenderableType

from recserve_benchmarks.harness.report import Target, cautions, matrix, picture, targets_table, title

TARGETS: Final = (
    Target("record.batched_ratio_to_raw", 0.25),
    Target("record.single_per_s", 2000),
    Target("record.single_ratio_to_raw", 0.5),
    Target("recommend_by_user.50.ratio_to_caller_history", 0.8),
    Target("recommend_by_user.50.after_write_ratio_to_caller_history", 0.95),
    Target("recommend_by_user.500.ratio_to_caller_history", 0.7),
)


def parts(results: dict[str, Any]) -> list[RenderableType]:
    """Lines and tables, at most 100 columns wide."""
    of, stores = results["setup"], _stores(results)
    by_user = {
        f"{store}, {events} interactions": figures
        for store, of_store in stores.items()
        for events, figures in of_store["recommend_by_user"].items()
    }
    return [
        title(results),
        f"{results['interactions_before']:,} interactions and {of['users']:,} users in the store beforehand",
        *(f"{store} filled in {fill_s:.0f} s" for store, fill_s in results["fill_s"].items()),
        *cautions(results),
        matrix(_turned(by_user), "recommend by user"),
        matrix(_turned({store: of_store["record"] for store, of_store in stores.items()}), "record"),
        targets_table(results, TARGETS),
    ]


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


def _turned(values: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Rows as columns."""
    return {name: {column: of[name] for column, of in values.items()} for name in next(iter(values.values()))}
