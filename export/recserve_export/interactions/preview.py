"""What `recserve interactions` shows of weights: a user's interactions factor by factor, and fitted statistics."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import msgspec
from rich.table import Table
from rich.text import Text

from recserve_client.cli.tables import plain, table
from recserve_server_ext.config.history import Fitted, HistoryRules
from recserve_server_ext.history.cleaning import of_types
from recserve_server_ext.history.sentiment import NAME, Verdicts
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
        factors: By name; they multiply to the weight. `sentiment` is there for a comment that counts.
        weight: In the history.
        comment: Text about the item; `None` without one.
        confidence: How sure the factor `sentiment` of the comment is, 0 to 1; `None` without one.
    """

    subject: str
    is_item: bool
    type: str
    timestamp: float
    factors: dict[str, float]
    weight: float
    comment: str | None = None
    confidence: float | None = None


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


def preview_of(
    columns: InteractionColumns, rules: HistoryRules, read: Callable[[list[str]], Verdicts] | None = None
) -> Preview:
    """Weigh the interactions of a single user.

    Args:
        columns: The interactions, with their comments.
        rules: Rules of histories.
        read: Says what comments mean; `None` where they do not count.

    Raises:
        ConfigError: The rules need statistics and have none.
    """
    found = weigh(columns, rules)
    rated = of_types(columns, rules.rating.types)
    places = [n for n in found.index.tolist() if n in columns.comments and not rated[n]]
    verdicts = read([columns.comments[n] for n in places]) if read is not None and places else None
    found_of = () if verdicts is None else zip(verdicts.factor, verdicts.confidence, strict=True)
    verdict_of = dict(zip(places, found_of, strict=False))
    rows = []
    for place, index in enumerate(found.index.tolist()):
        subject = int(columns.subject[index])
        factors = {name: float(found.factors[name][place]) for name in FACTORS}
        verdict = verdict_of.get(index)
        if verdict is not None:
            factors[NAME] = float(verdict[0])
        row = PreviewRow(
            subject=columns.subjects[subject],
            is_item=bool(columns.is_item[subject]),
            type=columns.types[columns.type[index]],
            timestamp=int(columns.time_us[index]) / 1e6,
            factors=factors,
            weight=float(found.weight[place] * factors.get(NAME, 1.0)),
            comment=columns.comments.get(index),
            confidence=None if verdict is None else float(verdict[1]),
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
    names = [name for name in (*FACTORS, NAME) if any(row.factors.get(name, 1) != 1 for row in shown)]
    cells: list[list[str | Text]] = []
    for row in shown:
        subject = plain(row.subject if row.is_item else f'"{row.subject}"')
        subject.truncate(_SUBJECT_WIDTH, overflow="ellipsis")
        when = datetime.fromtimestamp(row.timestamp, UTC).strftime("%y-%m-%d %H:%M")
        numbers = [*(row.factors.get(name, 1.0) for name in names), row.weight]
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
