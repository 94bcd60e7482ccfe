"""What `recserve interactions` shows of weights: a user's interactions factor by factor, and fitted statistics."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import msgspec
from rich.table import Table
from rich.text import Text

from recserve_export.tables import plain, table
from recserve_server_ext.config.history import Fitted, HistoryRules
from recserve_server_ext.history.weights import FACTORS, weigh
from recserve_server_ext.interactions.columns import InteractionColumns

_FEATURES: Final = ("dwell", "clicks", "amount", "rating")
_SUBJECT_WIDTH: Final = 24


class PreviewRow(msgspec.Struct, frozen=True):
    """One interaction that is kept.

    Attributes:
        subject: Item id or text.
        is_item: Whether the subject is an item id.
        type: Type of the interaction.
        timestamp: Seconds since 1970.
        factors: By name; they multiply to the weight.
        weight: In the history.
    """

    subject: str
    is_item: bool
    type: str
    timestamp: float
    factors: dict[str, float]
    weight: float


class Preview(msgspec.Struct, frozen=True):
    """How the interactions of one user become a history.

    Attributes:
        rules: Version of the rules.
        read: Interactions in the window.
        kept: Those that have a weight.
        left_out: The others by reason.
        rows: What is kept, newest first.
    """

    rules: str
    read: int
    kept: int
    left_out: dict[str, int]
    rows: list[PreviewRow]


def preview_of(columns: InteractionColumns, rules: HistoryRules) -> Preview:
    """Weigh the interactions of a single user.

    Raises:
        ConfigError: The rules need statistics and have none.
    """
    found = weigh(columns, rules)
    rows = []
    for place, index in enumerate(found.index.tolist()):
        subject = int(columns.subject[index])
        row = PreviewRow(
            subject=columns.subjects[subject],
            is_item=bool(columns.is_item[subject]),
            type=columns.types[columns.type[index]],
            timestamp=int(columns.time_us[index]) / 1e6,
            factors={name: float(found.factors[name][place]) for name in FACTORS},
            weight=float(found.weight[place]),
        )
        rows.append(row)
    counts = msgspec.structs.asdict(found.counters)
    left_out = {
        name.replace("_", " "): counts[name] for name in ("no_weight", "missing", "duplicates", "bots", "bounces")
    }
    rows.sort(key=lambda row: -row.timestamp)
    return Preview(rules.version, counts["read"], counts["kept"], {n: c for n, c in left_out.items() if c}, rows)


def preview_table(preview: Preview, rows: int) -> Table:
    """The first rows as a table; a factor that is 1 in all of them has no column."""
    shown = preview.rows[:rows]
    names = [name for name in FACTORS if any(row.factors[name] != 1 for row in shown)]
    cells: list[list[str | Text]] = []
    for row in shown:
        subject = plain(row.subject if row.is_item else f'"{row.subject}"')
        subject.truncate(_SUBJECT_WIDTH, overflow="ellipsis")
        when = datetime.fromtimestamp(row.timestamp, UTC).strftime("%y-%m-%d %H:%M")
        numbers = [*(row.factors[name] for name in names), row.weight]
        cells.append([subject, row.type, when, *map(_short, numbers)])
    return table(("item or text", "type", "when (UTC)", *names, "weight"), cells, right=(*names, "weight"))


def fitted_table(fitted: Fitted) -> Table:
    """The statistics, a feature a row."""
    figures = ("values", "mean", "std", "least", "median", "most")
    cells = []
    for name in _FEATURES:
        of = getattr(fitted, name)
        numbers = (of.mean, of.std, of.least, of.knots[50], of.most) if of.count else ()
        cells.append([name, f"{of.count:,}", *(f"{number:.4g}" for number in numbers)])
    return table(("feature", *figures), cells, right=figures)


def _short(number: float) -> str:
    """Three digits; what is too small for four places after the point as a power of ten."""
    return f"{number:.3f}" if number == 0 or abs(number) >= 0.001 else f"{number:.0e}"
