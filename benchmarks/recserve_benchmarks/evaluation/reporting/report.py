"""What `recserve evaluate` shows on the console: a table for each protocol, and what is to be served."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from rich.console import RenderableType
from rich.table import Table

from recserve_benchmarks.harness.report import horizontal_bars, picture, table

COLOURS: Final = {"baseline": "tab:gray", "strategy": "tab:blue"}
#: Headings and the paths of their figures.
SYSTEM_COLUMNS: Final = (
    ("NDCG@10", "ndcg_at_10"),
    ("HR@10", "hr_at_10"),
    ("MRR@10", "mrr_at_10"),
    ("rec@20", "recall_at_20"),
    ("cov", "lists.coverage"),
    ("bits", "lists.novelty"),
    ("div", "lists.diversity"),
    ("cal", "lists.calibration"),
    ("rank", "lists.popularity_rank"),
)
GROUP_COLUMNS: Final = (
    ("cold", "cold_users.ndcg_at_10"),
    ("1-5", "activity.1-5.ndcg_at_10"),
    ("6-20", "activity.6-20.ndcg_at_10"),
    ("21-100", "activity.21-100.ndcg_at_10"),
    ("over 100", "activity.over 100.ndcg_at_10"),
    ("head", "items.popularity.head.recall_at_10"),
    ("tail", "items.popularity.tail.recall_at_10"),
    ("new", "items.age.new.recall_at_10"),
    ("cold items", "cold_items.ndcg_at_10"),
)
#: Differences with a corrected p below this are named.
_SIGNIFICANT: Final = 0.05


def parts(results: dict[str, Any]) -> list[RenderableType]:
    """Lines and tables, at most 100 columns wide."""
    found: list[RenderableType] = [title(results)]
    if results["data"]["is_by_user"]:
        found.append("the rows are sorted by user and have no times: nothing is asked by time")
    for protocol, systems in results["protocols"].items():
        found += [systems_table(results, protocol), groups_table(protocol, systems)]
    return [*found, *notes(results)]


def title(results: dict[str, Any]) -> str:
    """The size of the log and the duration."""
    of = results["data"]
    return (
        f"{of['users']:,} users, {of['items']:,} items, {of['interactions']:,} interactions; "
        f"{of['seconds']:.0f} s, {len(of['seeds'])} seeds"
    )


def figure(system: dict[str, Any], path: str, of: str = "mean") -> float:
    """A figure of a system by its path; NaN where there is none."""
    found: Any = system
    for name in path.split("."):
        found = found.get(name, {})
    return float(found.get(of, "nan")) if found else float("nan")


def asked(results: dict[str, Any], protocol: str) -> str:
    """Whom the test of a protocol asked about, and whether these are a sample."""
    parts = [part for part in results["data"]["parts"] if part["protocol"] == protocol]
    tests = [part for part in parts if part["is_test"] and not part["is_held_out"]]
    users, of = (sum(part[name] for part in tests) for name in ("users", "sample_of_users"))
    sample = f", a sample of {of:,}" if of > users else ""
    return f"{protocol}: {users:,} questions{sample} in {len(tests)} parts"


def systems_table(results: dict[str, Any], protocol: str) -> Table:
    """All systems for users with a history; s.e. is the standard error over the users, p that against the best."""
    rows = []
    for name, system in results["protocols"][protocol].items():
        first, *others = (figure(system, path) for _, path in SYSTEM_COLUMNS)
        p = system.get("against", {}).get("p_corrected")
        cells = (short(first), short(figure(system, "ndcg_at_10", "se")), "" if p is None else short(p))
        rows.append((name, *cells, *map(short, others)))
    headings = ("", SYSTEM_COLUMNS[0][0], "s.e.", "p", *(heading for heading, _ in SYSTEM_COLUMNS[1:]))
    return table(headings, rows, title=asked(results, protocol))


def groups_table(protocol: str, systems: dict[str, Any]) -> Table:
    """NDCG@10 by the activity of users, recall@10 by popularity and age of items, and NDCG@10 of cold items."""
    rows = [(name, *(short(figure(system, path)) for _, path in GROUP_COLUMNS)) for name, system in systems.items()]
    about = f"{protocol}: NDCG@10 by activity of users; recall@10 by items; NDCG@10 of cold items"
    return table(("", *(heading for heading, _ in GROUP_COLUMNS)), rows, title=about)


def notes(results: dict[str, Any]) -> list[str]:
    """What is best, what is significantly below popularity's place, and what is to be served."""
    lines = [line for protocol, systems in results["protocols"].items() for line in _compared(protocol, systems)]
    lines += [f"{activity}: {_named(choice)}" for activity, choice in results["chosen"].items()]
    return [textwrap.fill(line, 100) for line in lines]


def _compared(protocol: str, systems: dict[str, Any]) -> Iterable[str]:
    against = [of["against"]["reference"] for of in systems.values() if "against" in of]
    if against:
        worse = [
            name
            for name, of in systems.items()
            if "against" in of and of["against"]["p_corrected"] < _SIGNIFICANT and of["against"]["difference"] < 0
        ]
        yield f"{protocol}: best on validation: {against[0]}; significantly below it: {', '.join(worse) or 'none'}"
    above = [
        name
        for name, of in systems.items()
        if (found := of.get("against_auto")) and found["p_corrected"] < _SIGNIFICANT and found["difference"] > 0
    ]
    yield f"{protocol}: significantly above auto: {', '.join(above) or 'none'}"
    popular = figure(systems.get("popularity", {}), "ndcg_at_10")
    losers = [name for name, of in systems.items() if figure(of, "ndcg_at_10") < popular]
    yield f"{protocol}: below popularity: {', '.join(losers) or 'none'}"


def _named(choice: dict[str, Any] | None) -> str:
    if choice is None:
        return "nothing could be chosen"
    options = ", ".join(f"{name} {value}" for name, value in choice.get("options", {}).items())
    return f"{choice['strategy']}{f' ({options})' if options else ''}"


def draw(results: dict[str, Any], path: Path) -> None:
    """Plot NDCG@10 of every system, a panel for each protocol; whiskers are one standard error."""
    protocols = results["protocols"]
    rows = max(map(len, protocols.values()))
    with picture(path, title(results), 1, len(protocols), (11, 1.5 + 0.28 * rows)) as panels:
        for axes, (protocol, systems) in zip(panels, protocols.items(), strict=True):
            values = {name: _ends(system) for name, system in systems.items()}
            horizontal_bars(axes, values, [COLOURS[system["kind"]] for system in systems.values()])
            axes.set(xlabel="NDCG@10, users with history", title=protocol)


def _ends(system: dict[str, Any]) -> tuple[float, float, float]:
    mean, error = (figure(system, "ndcg_at_10", of) for of in ("mean", "se"))
    mean, error = (0.0 if value != value else value for value in (mean, error))
    return mean - error, mean, mean + error


def short(value: float) -> str:
    """Three digits, without a leading zero; empty for NaN."""
    if value != value:
        return ""
    return f"{value:.3f}".replace("0.", ".", 1) if value < 1 else f"{value:.2f}"
