"""Cleaning: which interactions a history is made from, and what was left out for which reason."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np

from recserve_server_ext.common.arrays import Ints, Mask
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.interactions.columns import InteractionColumns


class Counters(msgspec.Struct, frozen=True):
    """What became of the interactions; `read` is the sum of all the others but `bot_users`.

    Attributes:
        read: Interactions that came in.
        no_weight: Of a type without a base weight.
        missing: Ratings without a value.
        duplicates: Equal to another one in everything: user, item or text, type, timestamp and numbers.
        bots: Of users that are bots.
        bot_users: Such users.
        bounces: Shorter than the bound.
        kept: The rest.
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
    """The places of the interactions that are kept, ascending, and the counters.

    Steps follow one another, each on what the one before it left: types without a weight, ratings without a value,
    exact duplicates (the first of them in the columns stays), bots, bounces.
    """
    cleaning = rules.cleaning
    rated = of_types(columns, rules.rating.types)
    bounced = of_types(columns, cleaning.bounce_types) & (columns.duration_s < cleaning.bounce_s)
    steps: list[Ints] = [np.arange(len(columns.time_us))]
    for leave in (~of_types(columns, rules.base), rated & ~np.isfinite(columns.value)):
        steps.append(steps[-1][~leave[steps[-1]]])
    steps.append(_distinct(columns, steps[-1]))
    bots = _bots(columns, steps[-1], cleaning.bot_interactions, cleaning.bot_window_s)
    steps.append(steps[-1][~np.isin(columns.user[steps[-1]], bots)] if len(bots) else steps[-1])
    steps.append(steps[-1][~bounced[steps[-1]]])
    read, *left = (len(step) for step in steps)
    no_weight, missing, duplicates, bot_interactions, bounces = -np.diff([read, *left])
    counts = map(int, (read, no_weight, missing, duplicates, bot_interactions, len(bots), bounces, left[-1]))
    return steps[-1], Counters(*counts)


def of_types(columns: InteractionColumns, names: Iterable[str]) -> Mask:
    """[events] Whether the type is one of these."""
    wanted = set(names)
    return np.array([name in wanted for name in columns.types], np.bool_)[columns.type]


def _distinct(columns: InteractionColumns, places: Ints) -> Ints:
    """Of equal interactions the first."""
    if is_newest_first(columns.user[places], columns.time_us[places]):
        return places
    numbers = [columns.value, columns.duration_s, columns.price, columns.quantity]
    keys = [columns.user, columns.time_us, columns.subject, columns.type]
    # A missing number equals a missing number; numbers are finite, so minus infinity is free to stand for it.
    # A column without any number tells nothing apart; mostly none of the four has one.
    known = [column for column in numbers if not np.isnan(column).all()]
    keys += [np.nan_to_num(column, nan=-np.inf, neginf=-np.inf) for column in known]
    keys = [key[places] for key in keys]
    order = np.lexsort(keys)  # stable: among equals the first comes first
    differs = np.ones(len(places), np.bool_)
    differs[1:] = np.logical_or.reduce([key[order][1:] != key[order][:-1] for key in keys])
    first: Ints = np.sort(places[order[differs]])
    return first


def is_newest_first(user: Ints, time_us: Ints) -> bool:
    """Whether the interactions come user by user, each later than the next one: then none needs to be sorted."""
    return bool(((user[1:] > user[:-1]) | ((user[1:] == user[:-1]) & (time_us[1:] < time_us[:-1]))).all())


def _bots(columns: InteractionColumns, places: Ints, most: int, window_s: float) -> Ints:
    """Users with more than `most` interactions, the first and the last of which are less than the window apart."""
    user, time_us = columns.user[places], columns.time_us[places]
    if np.bincount(user).max(initial=0) <= most:
        return np.empty(0, np.int64)
    order = np.lexsort([time_us, user])
    user, time_us = user[order], time_us[order]
    is_fast = (user[most:] == user[:-most]) & (time_us[most:] - time_us[:-most] < window_s * 1e6)
    bots: Ints = np.unique(user[most:][is_fast])
    return bots
