"""From interactions to the weights of a history: one vectorised pass over many users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from recserve_server_ext.common.arrays import Floats, Ints
from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.config.history import FeatureName, HistoryRules, Statistics
from recserve_server_ext.history.cleaning import Counters, clean, is_newest_first
from recserve_server_ext.history.features import CLIP, features, same_subject, standardised
from recserve_server_ext.interactions.columns import InteractionColumns

#: The factors of a weight, in the order in which they are multiplied.
FACTORS: Final = ("base", "rating", "dwell", "clicks", "amount", "age", "position", "session", "repeats")
_FEATURES: Final[tuple[FeatureName, ...]] = ("dwell", "clicks", "amount")


@dataclass(frozen=True, eq=False)
class WeightedEvents:
    """What became of the interactions of many users. Those kept of user u are at `offsets[u]` to `offsets[u + 1]`.

    Attributes:
        offsets: [users + 1].
        index: [kept] Place of each in the columns, ascending.
        weight: [kept] Product of the factors; negative ones push away.
        newer: [kept] Number of kept interactions of the user that are newer.
        session: [kept] Number of later sessions of the user: 0 = the newest.
        factors: [kept] by name, in the order of `FACTORS`.
        counters: What was left out and why.
    """

    offsets: Ints
    index: Ints
    weight: Floats
    newer: Ints
    session: Ints
    factors: dict[str, Floats]
    counters: Counters


def weigh(columns: InteractionColumns, rules: HistoryRules) -> WeightedEvents:
    """Weigh the interactions of each user: w = the product of

    - base: the base weight of the type.
    - rating: for ratings the distance r - m to the user's mean, standardised; else 1. With R = the fitted mean rating
      (before a fit: the middle), n = the user's ratings and k = the prior, m = (sum of them + k R) / (n + k), and the
      factor is the distance itself cut to [-3, 3] (`points`), or s(R + r - m) - s(R) of the method.
    - dwell, clicks, amount: exp(strength * s(x)) of the standardised feature; 1 where there is none.
    - age: 2^(-t / half-life), t = the time to the user's newest kept interaction. Not to now: only ratios within a
      user count, since user vectors are normalised, and the weights of a user long gone would vanish.
    - position: 2^(-p / half-life), p = the kept interactions of the user that are newer; equal timestamps, equal p.
    - session: 2^(-q / half-life), q = the later sessions; a pause longer than the gap begins one.
    - repeats: 1 / (1 + ln n) with n = the kept interactions of the user with the same item or text, so that n of
      weight w count as w n / (1 + ln n) together.

    The result does not depend on the order of a user's interactions in the columns, besides which one of exact
    duplicates is kept.

    Raises:
        ConfigError: The rules need statistics and have none.
    """
    if rules.needs_fit and rules.fitted is None:
        raise ConfigError("these rules standardise features and have no statistics; run: recserve interactions fit")
    kept, counters = clean(columns, rules)
    user = columns.user[kept]
    values = features(columns, kept, rules)
    age_s, newer, session = _recency(user, columns.time_us[kept], rules.session_gap_s)
    base = np.array([rules.base.get(name, 0.0) for name in columns.types], np.float64)
    factors = {"base": base[columns.type[kept]], "rating": _rating(values["rating"], user, columns.users, rules)}
    factors |= {name: _feature(name, values[name], rules) for name in _FEATURES}
    factors["age"] = _halved(age_s, rules.half_life_s)
    factors["position"] = _halved(newer, rules.half_life_interactions)
    factors["session"] = _halved(session, rules.half_life_sessions)
    factors["repeats"] = _repeats(columns, kept) if rules.damps_repeats else np.ones(len(kept))
    weight = np.ones(len(kept))
    for name in FACTORS:
        weight = weight * factors[name]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=columns.users))])
    return WeightedEvents(offsets, kept, weight, newer, session, factors, counters)


def _rating(ratings: Floats, user: Ints, users: int, rules: HistoryRules) -> Floats:
    is_rated = ~np.isnan(ratings)
    of = rules.fitted.rating if rules.fitted is not None else None
    middle = rules.rating.middle if of is None or not of.count else of.mean
    sums = np.bincount(user[is_rated], weights=ratings[is_rated], minlength=users)
    counts = np.bincount(user[is_rated], minlength=users)
    prior = rules.rating.prior
    mean = (sums + prior * middle) / np.maximum(counts + prior, np.finfo(np.float64).tiny)
    distance = ratings - mean[user]
    method = rules.rating.method
    if method == "points" or of is None:
        factor = np.clip(distance, -CLIP, CLIP)
    else:
        factor = standardised(middle + distance, method, of) - standardised(np.array([middle]), method, of)
    return np.where(is_rated, factor, 1.0)


def _feature(name: FeatureName, values: Floats, rules: HistoryRules) -> Floats:
    feature = rules.features.get(name)
    if feature is None or rules.fitted is None:
        return np.ones(len(values))
    of: Statistics = getattr(rules.fitted, name)
    factor: Floats = np.exp(feature.strength * np.nan_to_num(standardised(values, feature.method, of), nan=0.0))
    return factor


def _halved(amount: Ints | Floats, half_life: float | None) -> Floats:
    factor: Floats = np.ones(len(amount)) if half_life is None else np.exp2(-amount / half_life)
    return factor


def _repeats(columns: InteractionColumns, kept: Ints) -> Floats:
    group, groups = same_subject(columns, kept)
    count = np.bincount(group, minlength=groups)[group]
    factor: Floats = 1.0 / (1.0 + np.log(count))
    return factor


def _recency(user: Ints, time_us: Ints, gap_s: float) -> tuple[Floats, Ints, Ints]:
    """Of each interaction: seconds to the user's newest, how many of the user are newer, how many sessions later."""
    if not len(user):
        return np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64)
    place = np.arange(len(user))
    # Users one after the other, each newest first.
    order = place if is_newest_first(user, time_us) else np.lexsort([-time_us, user])
    of_user, times = user[order], time_us[order]
    is_first = np.append(True, of_user[1:] != of_user[:-1])
    start = np.maximum.accumulate(np.where(is_first, place, 0))
    pause_us = np.append(0, times[:-1] - times[1:])
    is_new_time = is_first | (pause_us > 0)
    newer = np.maximum.accumulate(np.where(is_new_time, place, 0)) - start
    sessions = np.cumsum(~is_first & (pause_us > gap_s * 1e6))
    age_s, rank, session = np.empty(len(order)), np.empty_like(place), np.empty_like(place)
    age_s[order] = (times[start] - times) / 1e6
    rank[order] = newer
    session[order] = sessions - sessions[start]
    return age_s, rank, session
