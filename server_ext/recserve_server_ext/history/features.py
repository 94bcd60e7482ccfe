"""Features of interactions, and their standardisation by statistics of a named time range."""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from recserve_server_ext.common.arrays import Floats, Ints
from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.config.history import Fitted, HistoryRules, Method, Statistics
from recserve_server_ext.history.cleaning import clean, of_types
from recserve_server_ext.interactions.columns import InteractionColumns

#: Standard deviations beyond which a z-score does not go, and points for ratings.
CLIP: Final = 3.0
_CLICK: Final = "click"
_KNOTS: Final = np.linspace(0.0, 1.0, 101)


def features(columns: InteractionColumns, places: Ints, rules: HistoryRules) -> dict[str, Floats]:
    """The features of these interactions; NaN where one has none.

    - dwell: the duration in seconds.
    - clicks: how many of these interactions are clicks of the same user on the same item or text.
    - amount: price * quantity, a missing quantity being 1.
    - rating: the value, of types that are ratings.
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
    """A number for each of these interactions, equal for the same user and the same item or text; and how many."""
    key = columns.user[places] * max(len(columns.subjects), 1) + columns.subject[places]
    distinct, group = np.unique(key, return_inverse=True)
    return group, len(distinct)


def fit(columns: InteractionColumns, rules: HistoryRules, name: str, start_us: int, end_us: int) -> HistoryRules:
    """The rules with statistics of the interactions with start <= time < end.

    Nothing outside the range counts, not even for cleaning. Two fits of the same interactions have the same version.

    Args:
        columns: Interactions, whatever their times.
        rules: Whose cleaning and types count; their own statistics do not.
        name: Of the range.
        start_us: Microseconds since 1970.
        end_us: Microseconds since 1970.

    Raises:
        ConfigError: The range is empty, or holds no interaction that is kept.
    """
    inside = (columns.time_us >= start_us) & (columns.time_us < end_us)
    chosen = select(columns, np.flatnonzero(inside))
    kept, _ = clean(chosen, rules)
    if not len(kept):
        raise ConfigError(f"no interaction to fit on in the time range {name!r}, {start_us} to {end_us} microseconds")
    found = {feature: _statistics(values) for feature, values in features(chosen, kept, rules).items()}
    return msgspec.structs.replace(rules, fitted=Fitted(name, start_us, end_us, len(kept), **found))


def select(columns: InteractionColumns, places: Ints) -> InteractionColumns:
    """The columns of some interactions; `places` ascending."""
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
    )


def standardised(values: Floats, method: Method, of: Statistics) -> Floats:
    """s(x) by the statistics of a feature; NaN stays NaN, and without statistics all others are 0.

    - z: (x - mean) / std, cut to [-3, 3]; 0 where std = 0.
    - minmax: (x - least) / (most - least), cut to [0, 1]; 0 where they are equal.
    - log: ln(1 + max(x, 0)) / ln(1 + most), cut to [0, 1]; 0 where most <= 0.
    - quantile: the part of the 101 knots below x, those equal to x counting half: in [0, 1].
    """
    if method == "z":
        scaled = np.clip((values - of.mean) / of.std, -CLIP, CLIP) if of.std > 0 else 0.0 * values
    elif method == "minmax":
        width = of.most - of.least
        scaled = np.clip((values - of.least) / width, 0.0, 1.0) if width > 0 else 0.0 * values
    elif method == "log":
        scaled = (
            np.clip(np.log1p(np.maximum(values, 0.0)) / np.log1p(of.most), 0.0, 1.0) if of.most > 0 else 0.0 * values
        )
    else:
        below, through = (np.searchsorted(of.knots, values, side) for side in ("left", "right"))
        scaled = np.where(np.isnan(values), np.nan, (below + through) / (2.0 * max(len(of.knots), 1)))
    return scaled


def _statistics(values: Floats) -> Statistics:
    values = np.sort(values[np.isfinite(values)])  # sorted: sums do not depend on the order of the input
    if not len(values):
        return Statistics(0, 0.0, 0.0, 0.0, 0.0, ())
    knots = tuple(np.quantile(values, _KNOTS).tolist())
    mean, std = float(values.mean()), float(values.std())
    return Statistics(len(values), mean, std, float(values[0]), float(values[-1]), knots)
