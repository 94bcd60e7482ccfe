"""What `recserve bench training` and `recserve bench spaces` show: tables in Markdown, as `docs/results` has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recserve_benchmarks.training.options import ASKED

_COLUMNS = (*ASKED, "search", "agreement", "cpu_s")


def lines(results: Mapping[str, Any]) -> list[str]:
    """The table, row by row; means over the seeds, and their standard deviation in brackets."""
    found = [f"| | {' | '.join((*ASKED, 'search', 'agreement', 'CPU s'))} |", "|---|" + "---|" * len(_COLUMNS)]
    found += [_line(name, of) for name, of in results["controls"].items()]
    for kind in ("text_head", "encoder"):
        for row in results[kind]:
            found.append(_line(f"`{kind}` {_settings(row['settings'])}".strip(), row["figures"]))
    return found


def lines_of_spaces(results: Mapping[str, Any]) -> list[str]:
    """The table of spaces, row by row; means over the splits, and their standard deviation in brackets."""
    found = [f"| {results['items']:,} items | {' | '.join(ASKED)} |", "|---|" + "---|" * len(ASKED)]
    return found + [_line(name, of, ASKED) for name, of in results["rows"].items()]


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}={value:g}`" for name, value in settings.items())


def _line(name: str, figures: Mapping[str, Sequence[float]], columns: Sequence[str] = _COLUMNS) -> str:
    cells = []
    for column in columns:
        values = figures.get(column, ())
        if column == "cpu_s":
            cells.append(f"{np.mean(values):.0f}" if values else "")
        elif len(values) > 1:
            cells.append(f"{np.mean(values):.3f} ({np.std(values, ddof=1):.3f})")
        else:
            cells.append(f"{values[0]:.3f}" if values else "")
    return f"| {name} | {' | '.join(cells)} |"
