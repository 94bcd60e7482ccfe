"""Cleans the interactions that histories are made from, and counts what was left out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from itertools import pairwise

import msgspec
import numpy as np

from recserve_server_ext.common.arrays import Ints, Mask
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.interactions.columns import InteractionColumns


class Counters(msgspec.Struct, frozen=True):
    """Numbers of interactions kept and left out; `read` is the sum of the others, without `bot_users`.

    Attributes:
        read: All interactions.
        no_weight: Interactions of a type without a base weight.
        missing: Ratings without a value.
        duplicates: Interactions equal to another one in user, item or text, type, timestamp and numbers.
        bots: Interactions of bots.
        bot_users: Number of bots.
        bounces: Interactions that were too short.
        kept: Interactions that are kept.
    """

    read: int
    no_weight: int
    missing: int
    duplicates: int
    bots: int
    bot_users: int
    bounces: int
    kept: int


def clean(columns: InteractionColumns, rules: HistoryRules) -> tuple[Ints, Counters]:
    """Positions of the interactions that are kept, ascending, and the counters.

    The steps, each on what the step before left: types without a weight, ratings without a value, exact duplicates
    (the first one in the columns stays), bots, bounces.
    """
    cleaning = rules.cleaning
    steps: list[Ints] = [np.arange(len(columns.time_us))]
    steps.append(_without(steps[-1], columns, set(columns.types).difference(rules.base)))
    steps.append(_without(steps[-1], columns, rules.rating.types, lambda: ~np.isfinite(columns.value)))
    steps.append(_distinct(columns, steps[-1]))
    bots = _bots(columns, steps[-1], cleaning.bot_interactions, cleaning.bot_window_s)
    steps.append(steps[-1][~np.isin(columns.user[steps[-1]], bots)] if len(bots) else steps[-1])
    steps.append(_without(steps[-1], columns, cleaning.bounce_types, lambda: columns.duration_s < cleaning.bounce_s))
    lengths = list(map(len, steps))
    no_weight, missing, duplicates, bot_interactions, bounces = (before - after for before, after in pairwise(lengths))
    counts = (lengths[0], no_weight, missing, duplicates, bot_interactions, len(bots), bounces, lengths[-1])
    return steps[-1], Counters(*counts)


def _without(
    places: Ints, columns: InteractionColumns, types: Collection[str], which: Callable[[], Mask] | None = None
) -> Ints:
    """The places without the interactions of these types: all, or those of a mask over all interactions."""
    if not any(name in types for name in columns.types):
        return places
    leave = of_types(columns, types)
    return places[~(leave if which is None else leave & which())[places]]


def of_types(columns: InteractionColumns, names: Iterable[str]) -> Mask:
    """[interactions] whether the type is one of these."""
    wanted = set(names)
    return np.array([name in wanted for name in columns.types], np.bool_)[columns.type]


def _distinct(columns: InteractionColumns, places: Ints) -> Ints:
    """The first of each group of equal interactions."""
    if is_newest_first(columns.user[places], columns.time_us[places]):
        return places
    numbers = [columns.value, columns.duration_s, columns.price, columns.quantity]
    keys = [columns.user, columns.time_us, columns.subject, columns.type]
    # Missing numbers are equal to each other; numbers are finite, so minus infinity can stand for a missing one.
    # Columns without any number are skipped: mostly all four are empty.
    used = [column for column in numbers if not np.isnan(column).all()]
    keys += [np.nan_to_num(column, nan=-np.inf, neginf=-np.inf) for column in used]
    keys = [key[places] for key in keys]
    order = np.lexsort(keys)  # stable: the first of equal ones stays first
    differs = np.ones(len(places), np.bool_)
    differs[1:] = np.logical_or.reduce([key[order][1:] != key[order][:-1] for key in keys])
    first: Ints = np.sort(places[order[differs]])
    return first


def is_newest_first(user: Ints, time_us: Ints) -> bool:
    """Whether the interactions of each user, which are together, are sorted strictly by time, newest first."""
    return bool(((user[1:] != user[:-1]) | (time_us[1:] < time_us[:-1])).all())


def _bots(columns: InteractionColumns, places: Ints, most: int, window_s: float) -> Ints:
    """Users with more than `most` interactions within less than the window.

    Equal times do not count as fast: a log of whole days or hours tells nothing of speed.
    """
    user, time_us = columns.user[places], columns.time_us[places]
    if np.bincount(user).max(initial=0) <= most:
        return np.empty(0, np.int64)
    order = np.lexsort([time_us, user])
    user, time_us = user[order], time_us[order]
    passed_us = time_us[most:] - time_us[:-most]
    is_fast = (user[most:] == user[:-most]) & (passed_us > 0) & (passed_us < window_s * 1e6)
    bots: Ints = np.unique(user[most:][is_fast])
    return bots
