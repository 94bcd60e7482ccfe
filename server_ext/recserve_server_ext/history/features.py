"""Features of interactions, and their standardisation with statistics of a time range."""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from recserve_server_ext.common.arrays import Floats, Ints
from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.config.history import Fitted, HistoryRules, Method, Statistics
from recserve_server_ext.history.cleaning import clean, of_types
from recserve_server_ext.interactions.columns import InteractionColumns, among

#: Bound of z-scores, and of rating distances in points.
CLIP: Final = 3.0
_CLICK: Final = "click"
_KNOTS: Final = np.linspace(0.0, 1.0, 101)


def features(columns: InteractionColumns, places: Ints, rules: HistoryRules) -> dict[str, Floats]:
    """The features of some interactions, by name; NaN where an interaction lacks one.

    - dwell: the duration in seconds.
    - clicks: the number of clicks of the same user on the same item or text, among these interactions.
    - amount: price * quantity; a missing quantity counts as 1.
    - rating: the value, for interaction types that are ratings.
    """
    quantity = np.where(np.isnan(columns.quantity), 1.0, columns.quantity)
    clicked = of_types(columns, [_CLICK])[places]
    clicks = np.zeros(len(places))
    if clicked.any():
        group, groups = same_subject(columns, places)
        clicks = np.bincount(group, weights=clicked, minlength=groups)[group].astype(np.float64)
    rated = of_types(columns, rules.rating.types)
    return {
        "dwell": columns.duration_s[places],
        "clicks": clicks,
        "amount": (columns.price * quantity)[places],
        "rating": np.where(rated, columns.value, np.nan)[places],
    }


def same_subject(columns: InteractionColumns, places: Ints) -> tuple[Ints, int]:
    """Group number of each interaction by user and item or text, and the number of groups."""
    distinct, group = np.unique(subject_keys(columns, places), return_inverse=True)
    return group, len(distinct)


def subject_keys(columns: InteractionColumns, places: Ints) -> Ints:
    """A number for each interaction, equal for those of the same user with the same item or text."""
    return columns.user[places] * max(len(columns.subjects), 1) + columns.subject[places]


def fit(columns: InteractionColumns, rules: HistoryRules, name: str, start_us: int, end_us: int) -> HistoryRules:
    """The rules, with statistics fitted on the interactions with start <= time < end.

    Interactions outside the range do not count, not even for cleaning. Two fits on the same interactions have the same
    version.

    Args:
        columns: Interactions of any time.
        rules: Rules of cleaning and types; their statistics are replaced.
        name: Name of the range.
        start_us: Start of the range, in microseconds since 1970.
        end_us: End of the range, in microseconds since 1970.

    Raises:
        ConfigError: The range holds no interaction that is kept.
    """
    inside = (columns.time_us >= start_us) & (columns.time_us < end_us)
    chosen = select(columns, np.flatnonzero(inside))
    kept, _ = clean(chosen, rules)
    if not len(kept):
        raise ConfigError(f"no interaction to fit on in the time range {name!r}, {start_us} to {end_us} microseconds")
    statistics = {feature: _statistics(values) for feature, values in features(chosen, kept, rules).items()}
    return msgspec.structs.replace(rules, fitted=Fitted(name, start_us, end_us, len(kept), **statistics))


def select(columns: InteractionColumns, places: Ints) -> InteractionColumns:
    """The columns of the interactions at some positions, which are ascending."""
    counts = np.bincount(columns.user[places], minlength=columns.users)
    return InteractionColumns(
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        time_us=columns.time_us[places],
        type=columns.type[places],
        subject=columns.subject[places],
        value=columns.value[places],
        duration_s=columns.duration_s[places],
        price=columns.price[places],
        quantity=columns.quantity[places],
        types=columns.types,
        subjects=columns.subjects,
        is_item=columns.is_item,
        comments=among(columns.comments, places),
    )


def standardised(values: Floats, method: Method, statistics: Statistics) -> Floats:
    """s(x) by the statistics of a feature. NaN stays NaN; with empty statistics all other values become 0.

    - z: (x - mean) / std, cut to [-3, 3]; 0 where std = 0.
    - minmax: (x - least) / (most - least), cut to [0, 1]; 0 where they are equal.
    - log: ln(1 + max(x, 0)) / ln(1 + most), cut to [0, 1]; 0 where most <= 0.
    - quantile: the share of the 101 knots below x, in [0, 1]; knots equal to x count half.
    """
    if method == "z":
        std = statistics.std
        return np.clip((values - statistics.mean) / std, -CLIP, CLIP) if std > 0 else 0.0 * values
    if method == "minmax":
        width = statistics.most - statistics.least
        return np.clip((values - statistics.least) / width, 0.0, 1.0) if width > 0 else 0.0 * values
    if method == "log":
        most = statistics.most
        return np.clip(np.log1p(np.maximum(values, 0.0)) / np.log1p(most), 0.0, 1.0) if most > 0 else 0.0 * values
    knots = statistics.knots
    below, up_to = (np.searchsorted(knots, values, side) for side in ("left", "right"))
    return np.where(np.isnan(values), np.nan, (below + up_to) / (2.0 * max(len(knots), 1)))


def _statistics(values: Floats) -> Statistics:
    values = np.sort(values[np.isfinite(values)])  # sorted, so that sums do not depend on the order of the input
    if not len(values):
        return Statistics(0, 0.0, 0.0, 0.0, 0.0, ())
    knots = tuple(np.quantile(values, _KNOTS).tolist())
    mean, std = float(values.mean()), float(values.std())
    return Statistics(len(values), mean, std, float(values[0]), float(values[-1]), knots)
