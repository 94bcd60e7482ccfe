"""The rules of a history in plain Python, one interaction at a time: what the vectorised ones are compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, pstdev

from recserve_server_ext.config.history import HistoryRules, Statistics
from recserve_server_ext.interactions.columns import InteractionRow

Rows = list[InteractionRow]


def subject(row: InteractionRow) -> tuple[bool, str | None]:
    return (row.item is not None, row.text if row.item is None else row.item)


def plain_clean(rows: Rows, rules: HistoryRules) -> tuple[list[int], dict[str, int]]:
    """Places of what is kept of one user, and the counters."""
    counts = dict.fromkeys(("no_weight", "missing", "duplicates", "bots", "bot_users", "bounces"), 0)
    left: list[int] = []
    for place, row in enumerate(rows):
        if row.type not in rules.base:
            counts["no_weight"] += 1
        elif row.type in rules.rating.types and row.value is None:
            counts["missing"] += 1
        elif any(rows[earlier] == row for earlier in left):
            counts["duplicates"] += 1
        else:
            left.append(place)
    window_us = rules.cleaning.bot_window_s * 1e6
    most_at_once = 0
    for place in left:
        start = rows[place].time_us
        within = [rows[other].time_us for other in left if start <= rows[other].time_us < start + window_us]
        # More than a bot's number, of which that many after the first are not all at its time.
        ordered = sorted(within)
        most = rules.cleaning.bot_interactions
        if len(ordered) > most and any(late > early for early, late in zip(ordered, ordered[most:], strict=False)):
            most_at_once = len(ordered)
    if most_at_once > rules.cleaning.bot_interactions:
        counts["bots"], counts["bot_users"] = len(left), 1
        left = []
    kept = []
    for place in left:
        duration_s = rows[place].duration_s
        is_short = duration_s is not None and duration_s < rules.cleaning.bounce_s
        if rows[place].type in rules.cleaning.bounce_types and is_short:
            counts["bounces"] += 1
        else:
            kept.append(place)
    return kept, counts


def plain_features(rows: Rows, row: InteractionRow, rules: HistoryRules) -> dict[str, float | None]:
    """Features of one of the rows that are kept."""
    clicks = sum(other.type == "click" and subject(other) == subject(row) for other in rows)
    amount = None if row.price is None else row.price * (1.0 if row.quantity is None else row.quantity)
    rating = row.value if row.type in rules.rating.types else None
    return {"dwell": row.duration_s, "clicks": clicks, "amount": amount, "rating": rating}


def plain_statistics(values: Sequence[float]) -> Statistics:
    if not values:
        return Statistics(0, 0.0, 0.0, 0.0, 0.0, ())
    ordered = sorted(values)
    knots = []
    for percent in range(101):
        place = percent / 100 * (len(ordered) - 1)
        low, part = math.floor(place), place - math.floor(place)
        high = ordered[min(low + 1, len(ordered) - 1)]
        knots.append(ordered[low] + part * (high - ordered[low]))
    return Statistics(len(values), fmean(values), pstdev(values), ordered[0], ordered[-1], tuple(knots))


def plain_standardised(x: float, method: str, of: Statistics) -> float:
    def cut(value: float, low: float, high: float) -> float:
        return max(low, min(high, value))

    if method == "z":
        return cut((x - of.mean) / of.std, -3, 3) if of.std > 0 else 0.0
    if method == "minmax":
        return cut((x - of.least) / (of.most - of.least), 0, 1) if of.most > of.least else 0.0
    if method == "log":
        return cut(math.log1p(max(x, 0)) / math.log1p(of.most), 0, 1) if of.most > 0 else 0.0
    if not of.knots:
        return 0.0
    return sum(1.0 if knot < x else 0.5 if knot == x else 0.0 for knot in of.knots) / len(of.knots)


def plain_factors(rows: Rows, rules: HistoryRules) -> list[dict[str, float]]:
    """The factors of each of the rows of one user that are kept."""
    times = sorted(row.time_us for row in rows)
    starts = [at for before, at in pairwise(times) if at - before > rules.session_gap_s * 1e6]
    sessions = [sum(start > row.time_us for start in starts) for row in rows]
    return [
        {
            "base": rules.base[row.type],
            "rating": _rating(rows, row, rules),
            **{
                name: _feature(name, plain_features(rows, row, rules)[name], rules)
                for name in ("dwell", "clicks", "amount")
            },
            "age": _halved((times[-1] - row.time_us) / 1e6, rules.half_life_s),
            "position": _halved(sum(at > row.time_us for at in times), rules.half_life_interactions),
            "session": _halved(session, rules.half_life_sessions),
            "repeats": _repeats(rows, row) if rules.damps_repeats else 1.0,
        }
        for row, session in zip(rows, sessions, strict=True)
    ]


def _rating(rows: Rows, row: InteractionRow, rules: HistoryRules) -> float:
    if row.type not in rules.rating.types or row.value is None:
        return 1.0
    ratings = [other.value for other in rows if other.type in rules.rating.types and other.value is not None]
    of = rules.fitted.rating if rules.fitted is not None else None
    middle = of.mean if of is not None and of.count else rules.rating.middle
    mean = (sum(ratings) + rules.rating.prior * middle) / (len(ratings) + rules.rating.prior)
    if rules.rating.method == "points":
        return max(-3.0, min(3.0, row.value - mean))
    assert of is not None
    method = rules.rating.method
    return plain_standardised(middle + row.value - mean, method, of) - plain_standardised(middle, method, of)


def _feature(name: str, value: float | None, rules: HistoryRules) -> float:
    feature = {str(key): found for key, found in rules.features.items()}.get(name)
    if feature is None or value is None:
        return 1.0
    return math.exp(feature.strength * plain_standardised(value, feature.method, getattr(rules.fitted, name)))


def _halved(amount: float, half_life: float | None) -> float:
    return 1.0 if half_life is None else 0.5 ** (amount / half_life)


def _repeats(rows: Rows, row: InteractionRow) -> float:
    return 1 / (1 + math.log(sum(subject(other) == subject(row) for other in rows)))
