"""Counts of the interaction log: popularity, overall and by context, and item-to-item neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np

from recserve_server_ext.common.arrays import Ints
from recserve_server_ext.common.units import ORDINALS_US
from recserve_server_ext.config.counts import ClickPrior, CountSettings
from recserve_server_ext.counts.neighbours import Neighbours, neighbours_of
from recserve_server_ext.counts.popularity import PopularityCounts, count_popularity, no_popularity

#: Newest interactions that item-to-item neighbours are counted from, also for each user, and the number of items.
_MAX_INTERACTIONS: Final = 200_000
_MAX_PER_USER: Final = 100
_MAX_ITEMS: Final = 50_000
#: Active users that a context needs for popularity of its own, and values of one context name.
MIN_USERS: Final = 20
_MAX_VALUES: Final = 50


def _empty() -> Ints:
    return np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class ClickCounts:
    """Impressions and clicks of the recommended items.

    Attributes:
        items: Item ids.
        shown: [items] answers that contain the item.
        clicked: [items] those of them in which it was clicked.
        prior: Beta prior of the click rate.
    """

    items: list[str] = field(default_factory=list)
    shown: Ints = field(default_factory=_empty)
    clicked: Ints = field(default_factory=_empty)
    prior: ClickPrior = field(default_factory=ClickPrior)


@dataclass(frozen=True, eq=False)
class LogColumns:
    """Interactions of all users in the order they were recorded.

    Attributes:
        user: [interactions] number of the user.
        item: [interactions] position in `items`.
        time_us: [interactions] microseconds since 1970.
        items: Item ids.
        context: [interactions] value of each context name; `None` where an interaction has none.
    """

    user: Ints
    item: Ints
    time_us: Ints
    items: list[str]
    context: Mapping[str, Sequence[str | None]]

    def before(self, time_us: int) -> LogColumns:
        """The interactions before a time, in microseconds since 1970; with the same `items`."""
        kept = np.flatnonzero(self.time_us < time_us)
        context = {name: [values[place] for place in kept.tolist()] for name, values in self.context.items()}
        return LogColumns(self.user[kept], self.item[kept], self.time_us[kept], self.items, context)


class Counts(NamedTuple):
    """Counts of the interaction log.

    Attributes:
        overall: Popularity among all interactions.
        by_context: Popularity among the interactions with a context value, by name and value.
        items: Item ids of `neighbours`.
        neighbours: Item-to-item neighbours.
        clicks: Impressions and clicks.
        named: Counted interactions of each item that they name, whether the catalogue has it or not.
    """

    overall: PopularityCounts
    by_context: dict[tuple[str, str], PopularityCounts]
    items: list[str]
    neighbours: Neighbours
    clicks: ClickCounts = ClickCounts()
    named: Mapping[str, int] = MappingProxyType({})

    def popularity_in(self, context: Mapping[str, str]) -> PopularityCounts:
        """Popularity in a context: that of its most specific value, the one with the fewest active users."""
        counted = [self.by_context[pair] for pair in context.items() if pair in self.by_context]
        return min(counted, key=lambda popularity: int(popularity.active[-1]), default=self.overall)


def no_counts() -> Counts:
    """The counts of an empty log."""
    return Counts(no_popularity(), {}, [], Neighbours(np.empty((0, 0), np.int32), np.empty((0, 0), np.float32)))


def counts_of(log: LogColumns, now_us: int, settings: CountSettings, *, full: bool = True) -> Counts:
    """Count a log; to times that are the order of rows, nothing is newer than anything.

    Args:
        log: The interactions.
        now_us: End of the popularity windows, in microseconds since 1970.
        settings: Settings of the counts.
        full: Whether to count item-to-item neighbours too, which takes longest.
    """
    rank = _alphabetic(log.items)
    age_us = np.maximum(now_us - np.where(log.time_us < ORDINALS_US, 0, log.time_us), 0)
    newest_us = int(age_us.min(initial=np.iinfo(np.int64).max))

    def popularity(places: Ints | slice) -> PopularityCounts:
        columns = log.user[places], log.item[places], age_us[places]
        return count_popularity(*columns, log.items, rank, settings.recent_half_life_s, newest_us)

    by_context = {}
    for name, values in log.context.items():
        distinct, inverse = np.unique(np.array([value or "" for value in values]), return_inverse=True)
        frequent = np.argsort(-np.bincount(inverse, minlength=len(distinct)), kind="stable")[: _MAX_VALUES + 1]
        for code in frequent.tolist():
            if distinct[code]:
                counted = popularity(np.flatnonzero(inverse == code))
                if counted.active[-1] >= MIN_USERS:
                    by_context[name, str(distinct[code])] = counted
    items, neighbours = _neighbours(log, rank, settings) if full else no_counts()[2:4]
    named = dict(zip(log.items, np.bincount(log.item, minlength=len(log.items)).tolist(), strict=True))
    return Counts(popularity(slice(None)), by_context, items, neighbours, named=named)


def _alphabetic(items: list[str]) -> Ints:
    """[items] rank of each item in the order of the ids, so that ties do not depend on the order of the log."""
    order = np.array(sorted(range(len(items)), key=items.__getitem__), np.int64)
    rank = np.empty(len(items), np.int64)
    rank[order] = np.arange(len(items))
    return rank


def _neighbours(log: LogColumns, rank: Ints, settings: CountSettings) -> tuple[list[str], Neighbours]:
    """The most frequent items of the newest interactions, and their neighbours."""
    user, item = log.user[-_MAX_INTERACTIONS:], log.item[-_MAX_INTERACTIONS:]
    _, user = np.unique(user, return_inverse=True)
    # The newest interactions of each user, counted from the end.
    order = np.lexsort([-np.arange(len(user)), user])
    lengths = np.bincount(user)
    from_end = np.arange(len(user)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    order = order[from_end < _MAX_PER_USER]
    user, item = user[order], item[order]
    frequency = np.bincount(item, minlength=len(log.items))
    kept = np.lexsort([rank, -frequency])[:_MAX_ITEMS]
    kept = kept[frequency[kept] > 0]
    place = np.full(len(log.items), -1, np.int64)
    place[kept] = np.arange(len(kept))
    is_kept = place[item] >= 0
    neighbours = neighbours_of(
        user[is_kept], place[item[is_kept]], len(kept), shrink=settings.shrink, most=settings.neighbours
    )
    return [log.items[n] for n in kept.tolist()], neighbours
