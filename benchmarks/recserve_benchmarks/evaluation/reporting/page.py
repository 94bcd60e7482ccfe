"""The page of an evaluation: one HTML file that needs nothing else."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Final

from recserve_benchmarks.evaluation.metrics import CUTOFFS
from recserve_benchmarks.evaluation.reporting import report
from recserve_export.pages.page import picture_url, render
from recserve_server_ext.common.files import write_file

_ALL: Final = tuple(
    (f"{heading}@{k}", f"{name}_at_{k}")
    for heading, name in (("NDCG", "ndcg"), ("HR", "hr"), ("MRR", "mrr"), ("recall", "recall"))
    for k in CUTOFFS
)
_LISTS: Final = tuple(
    (name.replace("_", " "), f"lists.{name}")
    for name in ("coverage", "novelty", "diversity", "calibration", "gini", "popularity_rank")
)
_GROUPS: Final = (
    *report.GROUP_COLUMNS[:6],
    ("middle", "items.popularity.middle.recall_at_10"),
    *report.GROUP_COLUMNS[6:8],
    ("old", "items.age.old.recall_at_10"),
    ("cold: recall@10", "cold_items.recall_at_10"),
    report.GROUP_COLUMNS[8],
)
_TABLES: Final = (
    ("Users with a history", _ALL),
    ("Groups: NDCG@10 by activity of users, recall@10 by popularity and age of items, cold items", _GROUPS),
    ("Lists of ten", _LISTS),
)


def write_page(results: dict[str, Any], path: Path) -> None:
    """Write the page, atomically."""
    page = render(
        "recserve_benchmarks.evaluation.reporting",
        "page.html.j2",
        title=report.title(results),
        results=results,
        notes=report.notes(results),
        picture=picture_url(partial(report.draw, results)),
        protocols=[
            (protocol, report.asked(results, protocol), [(about, _table(systems, of)) for about, of in _TABLES])
            for protocol, systems in results["protocols"].items()
        ],
        comparisons={protocol: _comparisons(systems) for protocol, systems in results["protocols"].items()},
        costs=_costs(results),
        settings=_settings(results),
        setup={name: value for name, value in results["data"].items() if isinstance(value, str | int | float)},
    )
    write_file(path, page)


def _table(systems: dict[str, Any], columns: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    rows = []
    for name, system in systems.items():
        cells = [(report.figure(system, path), report.figure(system, path, "se")) for _, path in columns]
        rows.append((name, [(report.short(mean), report.short(error)) for mean, error in cells]))
    return {"headings": [heading for heading, _ in columns], "rows": rows}


def _comparisons(systems: dict[str, Any]) -> list[tuple[str, ...]]:
    found = []
    for name, system in systems.items():
        if against := system.get("against"):
            figures = [f"{against[of]:+.4f}" for of in ("difference", "low", "high")]
            found.append((name, against["reference"], *figures, f"{against['p']:.4f}", f"{against['p_corrected']:.4f}"))
    return found


def _costs(results: dict[str, Any]) -> list[tuple[str, str, str]]:
    peaks: dict[str, float] = {}
    for systems in results["protocols"].values():
        for name, system in systems.items():
            if "peak_mib" in system:
                peaks[name] = max(peaks.get(name, 0.0), system["peak_mib"])
    names = results["seconds"]
    return [(name, f"{names[name]:.1f}", f"{peaks[name]:,.0f}" if name in peaks else "") for name in names]


def _settings(results: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    found = []
    for protocol, systems in results["protocols"].items():
        for name, system in systems.items():
            for tried in system.get("validation", ()):
                options = ", ".join(f"{key} {value}" for key, value in tried["settings"].items())
                found.append((protocol, name, options, report.short(tried["ndcg_at_10"])))
    return found
