"""Weights of interactions: one vectorised pass over many users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from recserve_server_ext.common.arrays import Floats, Ints
from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.common.units import ORDINALS_US
from recserve_server_ext.config.history import FeatureName, HistoryRules
from recserve_server_ext.history.cleaning import Counters, clean, is_newest_first
from recserve_server_ext.history.features import CLIP, features, same_subject, standardised, subject_keys
from recserve_server_ext.interactions.columns import InteractionColumns

#: Factors of a weight, in the order of their multiplication.
FACTORS: Final = ("base", "rating", "dwell", "clicks", "amount", "age", "position", "session", "repeats")
_FEATURES: Final[tuple[FeatureName, ...]] = ("dwell", "clicks", "amount")
_DECAYS: Final = ("age", "position", "session")


@dataclass(frozen=True, eq=False)
class WeightedInteractions:
    """The weighted interactions of many users; those of user u are at `offsets[u]` to `offsets[u + 1]`.

    Attributes:
        offsets: [users + 1].
        index: [kept] position of each interaction in the columns, ascending.
        weight: [kept] product of the factors; negative weights push away.
        newer: [kept] number of newer kept interactions of the user.
        session: [kept] number of later sessions of the user; 0 in the newest session.
        factors: [kept] factors by name, in the order of `FACTORS`.
        counters: Numbers of interactions kept and left out.
    """

    offsets: Ints
    index: Ints
    weight: Floats
    newer: Ints
    session: Ints
    factors: dict[str, Floats]
    counters: Counters


def weigh(columns: InteractionColumns, rules: HistoryRules) -> WeightedInteractions:
    """Weigh the interactions of each user. A weight is the product of these factors:

    - base: the base weight of the type.
    - rating: 1, or for ratings the distance r - m to the user's mean m = (sum of ratings + k R) / (n + k). n counts the
      user's ratings, k is the prior, and R is the fitted mean rating (before a fit: the middle). The factor is the
      distance cut to [-3, 3] (`points`), or s(R + r - m) - s(R) by the method s.
    - dwell, clicks, amount: exp(strength * s(x)) of the standardised feature x; 1 where it is missing.
    - age: 2^(-t / half-life), t = the time to the user's newest kept interaction. It is not the time to now: only
      ratios within a user matter, and the weights of a user long inactive would vanish.
    - position: 2^(-p / half-life), p = the number of newer kept interactions; equal timestamps have equal p.
    - session: 2^(-q / half-life), q = the number of later sessions. A pause longer than the gap begins a session.
      Times in 1970 stand for the order of rows in a log without times: then t, p and q are 0.
    - repeats: 1 / (1 + ln n), n = the user's kept interactions with the same item or text. Together, n interactions of
      weight w count as w n / (1 + ln n).

    The result does not depend on the order of a user's interactions, apart from which one of exact duplicates is kept.

    Raises:
        ConfigError: The rules need fitted statistics and have none.
    """
    if rules.needs_fit and rules.fitted is None:
        raise ConfigError("these rules standardise features and have no statistics; run: recserve interactions fit")
    kept, counters = clean(columns, rules)
    user = columns.user[kept]
    age_s, newer, session = _recency(user, columns.time_us[kept], rules.session_gap_s)
    ones = np.ones(len(kept))  # of what does not count; not multiplied
    factors = dict.fromkeys(FACTORS, ones) | _of_features(columns, kept, rules)
    factors["base"] = np.array([rules.base.get(name, 0.0) for name in columns.types], np.float64)[columns.type[kept]]
    half_lives = rules.half_life_s, rules.half_life_interactions, rules.half_life_sessions
    for name, amount, half_life in zip(_DECAYS, (age_s, newer, session), half_lives, strict=True):
        if half_life is not None:
            factors[name] = np.exp2(-amount / half_life)
    if rules.damps_repeats and (counts := _repeats(columns, kept)) is not None:
        factors["repeats"] = 1.0 / (1.0 + np.log(counts))
    weight = factors["base"]
    for factor in map(factors.__getitem__, FACTORS[1:]):
        weight = weight if factor is ones else weight * factor
    offsets = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=columns.users))])
    return WeightedInteractions(offsets, kept, weight, newer, session, factors, counters)


def _of_features(columns: InteractionColumns, kept: Ints, rules: HistoryRules) -> dict[str, Floats]:
    """The factors of ratings and features, as far as these interactions have any and the rules use them."""
    fitted = rules.fitted
    scaled = [] if fitted is None else [name for name in _FEATURES if name in rules.features]
    is_rated = any(name in rules.rating.types for name in columns.types)
    if not (scaled or is_rated):
        return {}
    values = features(columns, kept, rules)
    factors = {"rating": _rating(values["rating"], columns.user[kept], columns.users, rules)} if is_rated else {}
    for name in scaled:
        feature, statistics = rules.features[name], getattr(fitted, name)
        z_scores = np.nan_to_num(standardised(values[name], feature.method, statistics), nan=0.0)
        factors[name] = np.exp(feature.strength * z_scores)
    return factors


def _rating(ratings: Floats, user: Ints, users: int, rules: HistoryRules) -> Floats:
    is_rated = ~np.isnan(ratings)
    statistics = rules.fitted.rating if rules.fitted is not None else None
    middle = rules.rating.middle if statistics is None or not statistics.count else statistics.mean
    sums = np.bincount(user[is_rated], weights=ratings[is_rated], minlength=users)
    counts = np.bincount(user[is_rated], minlength=users)
    prior = rules.rating.prior
    mean = (sums + prior * middle) / np.maximum(counts + prior, np.finfo(np.float64).tiny)
    distance = ratings - mean[user]
    method = rules.rating.method
    if method == "points" or statistics is None:
        factor = np.clip(distance, -CLIP, CLIP)
    else:
        centre = standardised(np.array([middle]), method, statistics)
        factor = standardised(middle + distance, method, statistics) - centre
    return np.where(is_rated, factor, 1.0)


def _repeats(columns: InteractionColumns, kept: Ints) -> Ints | None:
    """[kept] how many of the user's interactions have the same item or text; `None` where that is 1 throughout."""
    ascending = np.sort(subject_keys(columns, kept))
    if not (ascending[1:] == ascending[:-1]).any():
        return None
    group, groups = same_subject(columns, kept)
    return np.bincount(group, minlength=groups)[group]


def _recency(user: Ints, time_us: Ints, gap_s: float) -> tuple[Floats, Ints, Ints]:
    """[kept] seconds to the user's newest interaction, number of newer interactions, number of later sessions."""
    if not len(user):
        return np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64)
    place = np.arange(len(user))
    # Sorted by user, and newest first.
    order = slice(None) if is_newest_first(user, time_us) else np.lexsort([-time_us, user])
    sorted_user, times = user[order], time_us[order]
    is_first = np.append(True, sorted_user[1:] != sorted_user[:-1])
    start = np.maximum.accumulate(np.where(is_first, place, 0))
    pause_us = np.append(0, times[:-1] - times[1:])
    is_new_time = is_first | (pause_us > 0)
    newer = np.maximum.accumulate(np.where(is_new_time, place, 0)) - start
    sessions = np.cumsum(~is_first & (pause_us > gap_s * 1e6))
    age_s, rank, session = np.empty(len(place)), np.empty_like(place), np.empty_like(place)
    is_timed = times >= ORDINALS_US
    age_s[order] = np.where(is_timed, (times[start] - times) / 1e6, 0.0)
    rank[order] = np.where(is_timed, newer, 0)
    session[order] = np.where(is_timed, sessions - sessions[start], 0)
    return age_s, rank, session
