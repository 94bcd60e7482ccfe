"""What `recserve evaluate history` says: a table for each protocol, notes and a plot."""

from __future__ import annotations

import textwrap
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from recserve_benchmarks.harness.report import machine

#: What the best system has to reach, as a multiple of popularity's NDCG@10, for users with a history.
GOAL: Final = 1.5
_PACKAGES: Final = ("ir-measures", "scipy", "pytrec-eval-terrier")
_ACCURACY: Final = ("ndcg@10", "hr@10", "mrr@10", "recall@20")
_LISTS: Final = ("coverage", "novelty", "gini", "popularity_rank")
_HEADINGS: Final = ("NDCG@10", "s.e.", "seeds", "HR@10", "MRR@10", "rec@20", "cov", "bits", "Gini", "rank")


def hardware() -> dict[str, Any]:
    """CPU, versions and commit."""
    found = machine()
    return {**found, "versions": {**found["versions"], **{name: version(name) for name in _PACKAGES}}}


def figure(results: dict[str, Any], protocol: str, system: str, name: str = "ndcg@10", group: str = "history") -> float:
    """Mean over the seeds of a figure; NaN where there is none."""
    found = results["protocols"][protocol]["systems"][system]["test"][group].get(name)
    return float("nan") if found is None else float(found["mean"])


def systems_table(results: dict[str, Any], protocol: str) -> Table:
    """All systems, for users with a history, in the order they were run; at most 100 columns wide.

    s.e. is the standard error over the users, seeds the range over the seeds; the last four are coverage, novelty in
    bits, Gini and mean popularity rank of the lists of ten.
    """
    table = Table(box=None, header_style="bold", pad_edge=False, title=_title(results, protocol), title_justify="left")
    table.add_column("", no_wrap=True)
    for name in _HEADINGS:
        table.add_column(name, justify="right", no_wrap=True)
    for name, system in results["protocols"][protocol]["systems"].items():
        test = system["test"]
        if "ndcg@10" not in test["history"]:
            continue
        ends = test["history"]["ndcg@10"]
        seeds = f"{_short(ends['min'])}-{_short(ends['max'])}"
        accuracy = [_short(test["history"][of]["mean"]) for of in _ACCURACY]
        lists = [_rounded(of, test["lists"][of]["mean"]) if of in test["lists"] else "" for of in _LISTS]
        error = _short(test["history"]["ndcg@10_se"]["mean"]) if "ndcg@10_se" in test["history"] else ""
        table.add_row(name, accuracy[0], error, seeds, *accuracy[1:], *lists)
    return table


def cold_table(results: dict[str, Any], protocol: str) -> Table:
    """NDCG@10 and HR@10 of cold users, and recall@10 of cold items, of the systems that find any of them."""
    part = results["protocols"][protocol]["parts"][0]
    title = f"{protocol}: {part['cold_users']:,} cold users; {part['targets_that_are_cold']:,} cold items to find"
    table = Table(box=None, header_style="bold", pad_edge=False, title=title, title_justify="left")
    for name in ("", "users: NDCG@10", "users: HR@10", "items: recall@10"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for name in results["protocols"][protocol]["systems"]:
        cells = [
            figure(results, protocol, name, "ndcg@10", "cold_users"),
            figure(results, protocol, name, "hr@10", "cold_users"),
            figure(results, protocol, name, "recall@10", "cold_items"),
        ]
        if any(value > 0 for value in cells):
            table.add_row(name, *("" if value != value else _short(value) for value in cells))
    return table


def notes(results: dict[str, Any]) -> list[str]:
    """Whether the goal is met by which system, and what loses to popularity, by protocol."""
    lines = []
    for protocol, found in results["protocols"].items():
        popular = figure(results, protocol, "popularity")
        if not popular > 0:
            lines.append(f"{protocol}: popularity finds nothing for users with a history: no ratio to it")
            continue
        by_validation = {name: _best_validation(system) for name, system in found["systems"].items()}
        best = max(by_validation, key=lambda name: by_validation[name])
        ratio = figure(results, protocol, best) / popular
        losers = [name for name in found["systems"] if figure(results, protocol, name) < popular]
        verdict = "met" if ratio >= GOAL else "not met"
        lines.append(
            f"{protocol}: best on validation: {best}: {ratio:.2f} x popularity on the test ({GOAL}: {verdict})"
        )
        lines.append(f"{protocol}: below popularity: {'; '.join(losers) or 'none'}")
    return [textwrap.fill(line, 100) for line in lines]


def _best_validation(system: dict[str, Any]) -> float:
    return max(float(tried["ndcg@10"]) for tried in system["validation"])


def _title(results: dict[str, Any], protocol: str) -> str:
    part = results["protocols"][protocol]["parts"][0]
    return (
        f"{protocol}: {part['users_with_history']:,} users with history, {part['cold_users']:,} cold; "
        f"{part['targets']:,} to find"
    )


def _short(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1)


def _rounded(name: str, value: float) -> str:
    return f"{value:.1f}" if name == "novelty" else f"{value:.2f}".replace("0.", ".", 1)


def draw(results: dict[str, Any], path: Path, title: str) -> None:
    """Plot NDCG@10 of every system, a panel for each protocol; whiskers are the range over the seeds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    colours = {"baseline": "tab:gray", "strategy": "tab:blue"}
    protocols = results["protocols"]
    rows = max(len(found["systems"]) for found in protocols.values())
    figure_, panels = plt.subplots(
        1, len(protocols), figsize=(11, 1.5 + 0.28 * rows), layout="constrained", sharey=True
    )
    for axes, (protocol, found) in zip(panels, protocols.items(), strict=True):
        names = list(found["systems"])
        spreads = [found["systems"][name]["test"]["history"].get("ndcg@10") for name in names]
        means = [of["mean"] if of else 0.0 for of in spreads]
        below = [of["mean"] - of["min"] if of else 0.0 for of in spreads]
        above = [of["max"] - of["mean"] if of else 0.0 for of in spreads]
        kinds = [found["systems"][name]["kind"] for name in names]
        axes.barh(names, means, color=[colours[kind] for kind in kinds], xerr=(below, above), error_kw={"capsize": 2})
        axes.axvline(figure(results, protocol, "popularity"), color="black", linestyle="--", linewidth=1)
        axes.set(xlabel="NDCG@10, users with history", title=protocol, xlim=(0, None))
        axes.grid(visible=True, axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.margins(y=0.01)
    panels[0].invert_yaxis()
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in colours.values()]
    panels[-1].legend(handles, list(colours), loc="center right")
    figure_.suptitle(title)
    figure_.savefig(path, dpi=120)
    plt.close(figure_)
