"""What `recserve evaluate history` shows: tables for each protocol, notes and a plot."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any, Final

from rich.console import RenderableType
from rich.table import Table

from recserve_benchmarks.harness.report import horizontal_bars, picture, table

#: What the best system has to reach for users with a history, as a multiple of popularity's NDCG@10.
GOAL: Final = 1.5
_ACCURACY: Final = ("ndcg@10", "hr@10", "mrr@10", "recall@20")
_LISTS: Final = ("coverage", "novelty", "gini", "popularity_rank")
_HEADINGS: Final = ("", "NDCG@10", "s.e.", "seeds", "HR@10", "MRR@10", "rec@20", "cov", "bits", "Gini", "rank")
_COLOURS: Final = {"baseline": "tab:gray", "strategy": "tab:blue"}


def parts(results: dict[str, Any]) -> list[RenderableType]:
    """Lines and tables, at most 100 columns wide."""
    tables = [make(results, protocol) for protocol in results["protocols"] for make in (systems_table, cold_table)]
    return [title(results), *(found for found in tables if found.row_count), *notes(results)]


def title(results: dict[str, Any]) -> str:
    """The size of the dataset and the number of seeds."""
    of = results["setup"]
    return (
        f"{of['users']:,} users, {of['items']:,} items, {of['interactions']:,} interactions; {len(of['seeds'])} seeds"
    )


def figure(results: dict[str, Any], protocol: str, system: str, name: str = "ndcg@10", group: str = "history") -> float:
    """Mean of a figure over the seeds; NaN where there is none."""
    found = results["protocols"][protocol]["systems"][system]["test"][group].get(name)
    return float("nan") if found is None else float(found["mean"])


def systems_table(results: dict[str, Any], protocol: str) -> Table:
    """All systems, for users with a history, in the order they were run.

    s.e. is the standard error over the users, seeds the range over the seeds. The last four are coverage, novelty in
    bits, Gini coefficient and mean popularity rank of the lists of ten.
    """
    part = results["protocols"][protocol]["parts"][0]
    rows = []
    for name, system in results["protocols"][protocol]["systems"].items():
        history, lists = system["test"]["history"], system["test"]["lists"]
        if "ndcg@10" not in history:
            continue
        ends = history["ndcg@10"]
        seeds = f"{_short(ends['min'])}-{_short(ends['max'])}"
        first, *accuracy = (_short(history[of]["mean"]) for of in _ACCURACY)
        error = _short(history["ndcg@10_se"]["mean"]) if "ndcg@10_se" in history else ""
        of_lists = (_rounded(of, lists[of]["mean"]) if of in lists else "" for of in _LISTS)
        rows.append((name, first, error, seeds, *accuracy, *of_lists))
    about = (
        f"{protocol}: {part['users_with_history']:,} users with history, {part['cold_users']:,} cold; "
        f"{part['targets']:,} to find"
    )
    return table(_HEADINGS, rows, title=about)


def cold_table(results: dict[str, Any], protocol: str) -> Table:
    """NDCG@10 and HR@10 of cold users, and recall@10 of cold items, of the systems that find any of them."""
    part = results["protocols"][protocol]["parts"][0]
    about = f"{protocol}: {part['cold_users']:,} cold users; {part['targets_that_are_cold']:,} cold items to find"
    rows = []
    for name in results["protocols"][protocol]["systems"]:
        cells = [
            figure(results, protocol, name, "ndcg@10", "cold_users"),
            figure(results, protocol, name, "hr@10", "cold_users"),
            figure(results, protocol, name, "recall@10", "cold_items"),
        ]
        if any(value > 0 for value in cells):
            rows.append((name, *("" if value != value else _short(value) for value in cells)))
    return table(("", "users: NDCG@10", "users: HR@10", "items: recall@10"), rows, title=about)


def notes(results: dict[str, Any]) -> list[str]:
    """Which system is best and whether it meets the goal, and what loses to popularity, by protocol."""
    lines = []
    for protocol, found in results["protocols"].items():
        popular = figure(results, protocol, "popularity")
        if not popular > 0:
            lines.append(f"{protocol}: popularity finds nothing for users with a history: no ratio to it")
            continue
        reached = {name: max(of["ndcg@10"] for of in system["validation"]) for name, system in found["systems"].items()}
        best = max(reached, key=lambda name: reached[name])
        ratio = figure(results, protocol, best) / popular
        losers = [name for name in found["systems"] if figure(results, protocol, name) < popular]
        verdict = "met" if ratio >= GOAL else "not met"
        lines.append(
            f"{protocol}: best on validation: {best}: {ratio:.2f} x popularity on the test ({GOAL}: {verdict})"
        )
        lines.append(f"{protocol}: below popularity: {'; '.join(losers) or 'none'}")
    return [textwrap.fill(line, 100) for line in lines]


def draw(results: dict[str, Any], path: Path) -> None:
    """Plot NDCG@10 of every system, a panel for each protocol; whiskers are the range over the seeds."""
    protocols = results["protocols"]
    rows = max(len(found["systems"]) for found in protocols.values())
    about = f"{title(results)}; {results['setup']['encoder']['name']}"
    with picture(path, about, 1, len(protocols), (11, 1.5 + 0.28 * rows)) as panels:
        for axes, (protocol, found) in zip(panels, protocols.items(), strict=True):
            values = {}
            for name, system in found["systems"].items():
                of = system["test"]["history"].get("ndcg@10", {"min": 0.0, "mean": 0.0, "max": 0.0})
                values[name] = (of["min"], of["mean"], of["max"])
            horizontal_bars(axes, values, [_COLOURS[system["kind"]] for system in found["systems"].values()])
            axes.axvline(figure(results, protocol, "popularity"), color="black", linestyle="--", linewidth=1)
            axes.set(xlabel="NDCG@10, users with history", title=protocol)


def _short(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1)


def _rounded(name: str, value: float) -> str:
    return f"{value:.1f}" if name == "novelty" else f"{value:.2f}".replace("0.", ".", 1)
