"""What the log of all users says: what is popular, among whom, and which items go together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from recserve_server_ext.common.arrays import Ints
from recserve_server_ext.config.counts import CountSettings
from recserve_server_ext.counts.clicks import ClickCounts
from recserve_server_ext.counts.neighbours import Neighbours, neighbours_of
from recserve_server_ext.counts.popularity import Ranking, no_ranking, ranking_of

#: Newest interactions, as they came, that go into item-to-item counts; of each user at most so many, of so many items.
PAIRED: Final = 200_000
_OF_USER: Final = 100
_ITEMS: Final = 50_000
#: A ranking of a context counts from this many active users on; so many values of one name at most.
FEWEST: Final = 20
_VALUES: Final = 50


@dataclass(frozen=True, eq=False)
class LogColumns:
    """Interactions of all users that count, in the order they came.

    Attributes:
        user: [events] number of the user.
        item: [events] place in `items`.
        time_us: [events].
        items: Item ids.
        context: By name: [events] the value, none where there is none.
    """

    user: Ints
    item: Ints
    time_us: Ints
    items: list[str]
    context: Mapping[str, Sequence[str | None]]


class Counts(NamedTuple):
    """What was counted.

    Attributes:
        everybody: What is popular.
        of_context: The same among the interactions with a value of a context, by name and value.
        items: The items of `neighbours`.
        neighbours: Which of them go together.
        clicks: What was recommended and clicked.
    """

    everybody: Ranking
    of_context: dict[tuple[str, str], Ranking]
    items: list[str]
    neighbours: Neighbours
    clicks: ClickCounts = ClickCounts()

    def ranking(self, context: Mapping[str, str]) -> Ranking:
        """What is popular in a context: of the values that were counted the one with the fewest active users."""
        found = [self.of_context[pair] for pair in context.items() if pair in self.of_context]
        return min(found, key=lambda ranking: int(ranking.active[-1]), default=self.everybody)


def no_counts() -> Counts:
    """Of an empty log."""
    return Counts(no_ranking(), {}, [], Neighbours(np.empty((0, 0), np.int32), np.empty((0, 0), np.float32)))


def counts_of(log: LogColumns, now_us: int, settings: CountSettings, *, paired: bool = True) -> Counts:
    """Count a log.

    Args:
        log: The interactions.
        now_us: When, in microseconds since 1970: what the windows of what is popular end with.
        settings: How it is counted.
        paired: Whether item-to-item counts are wanted, which take longest.
    """
    rank = _alphabetic(log.items)
    age_us = np.maximum(now_us - log.time_us, 0)
    newest_us = int(age_us.min(initial=np.iinfo(np.int64).max))

    def ranking(places: Ints | slice) -> Ranking:
        columns = log.user[places], log.item[places], age_us[places]
        return ranking_of(*columns, log.items, rank, settings.recent_half_life_s, newest_us)

    of_context = {}
    for name, values in log.context.items():
        found, inverse = np.unique(np.array([value or "" for value in values]), return_inverse=True)
        often = np.argsort(-np.bincount(inverse, minlength=len(found)), kind="stable")[: _VALUES + 1]
        for code in often.tolist():
            if found[code]:
                counted = ranking(np.flatnonzero(inverse == code))
                if counted.active[-1] >= FEWEST:
                    of_context[name, str(found[code])] = counted
    items, neighbours = _neighbours(log, rank, settings) if paired else no_counts()[2:4]
    return Counts(ranking(slice(None)), of_context, items, neighbours)


def _alphabetic(items: list[str]) -> Ints:
    """[items] the place of each in the order of their ids: what is equal has one order, however it came."""
    order = np.array(sorted(range(len(items)), key=items.__getitem__), np.int64)
    rank = np.empty(len(items), np.int64)
    rank[order] = np.arange(len(items))
    return rank


def _neighbours(log: LogColumns, rank: Ints, settings: CountSettings) -> tuple[list[str], Neighbours]:
    """Item-to-item counts of the newest interactions, and the items they are about."""
    user, item = log.user[-PAIRED:], log.item[-PAIRED:]
    _, user = np.unique(user, return_inverse=True)
    # The newest of each user: counted from the end, one user after the other.
    order = np.lexsort([-np.arange(len(user)), user])
    lengths = np.bincount(user)
    from_end = np.arange(len(user)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    order = order[from_end < _OF_USER]
    user, item = user[order], item[order]
    often = np.bincount(item, minlength=len(log.items))
    kept = np.lexsort([rank, -often])[:_ITEMS]
    kept = kept[often[kept] > 0]
    place = np.full(len(log.items), -1, np.int64)
    place[kept] = np.arange(len(kept))
    counted = place[item] >= 0
    found = neighbours_of(
        user[counted], place[item[counted]], len(kept), shrink=settings.shrink, most=settings.neighbours
    )
    return [log.items[n] for n in kept.tolist()], found
