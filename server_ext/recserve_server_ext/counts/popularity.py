"""What is popular: items by the users they had within the last day, week, month and in all of the log."""

from __future__ import annotations

import math
from typing import Final, Literal, NamedTuple

import numpy as np

from recserve_server_ext.common.arrays import Floats, Ints
from recserve_server_ext.common.units import DAY_S, MICROSECONDS

#: The last 1, 7 or 30 days, all of the log, or all of these mixed.
PopularWindow = Literal["day", "week", "month", "all", "mixed"]
#: Seconds, shortest first; an interaction is in a window when it is not older than this.
WINDOWS: Final[dict[PopularWindow, float]] = {
    "day": DAY_S,
    "week": 7 * DAY_S,
    "month": 30 * DAY_S,
    "all": math.inf,
}
#: Users of a window at which it counts as much as all longer ones.
BACK_OFF: Final = 50.0
#: Later than any time, in microseconds.
_EVER: Final = 2**62
#: Items that are kept of a ranking, by each of its orders.
MOST_ITEMS: Final = 5000


class Ranking(NamedTuple):
    """Items by their users, within each window.

    Attributes:
        items: Item ids.
        users: [items, windows] users of each.
        recent: [items, windows] interactions, each halved with its age.
        active: [windows] users of any item.
    """

    items: list[str]
    users: Ints
    recent: Floats
    active: Ints

    def shares(self, window: PopularWindow = "mixed") -> Floats:
        """[items] The part of a window's active users that each item had; see `mixed`."""
        if window == "mixed":
            return mixed(self.users, self.active)
        place = list(WINDOWS).index(window)
        return np.asarray(self.users[:, place] / max(int(self.active[place]), 1))

    def recent_in(self, window: PopularWindow = "mixed") -> Floats:
        """[items] Interactions within a window, each halved with its age, which is a mixture of windows by itself."""
        return np.asarray(self.recent[:, list(WINDOWS).index("all" if window == "mixed" else window)])

    def reasons(self, window: PopularWindow = "mixed") -> tuple[Ints, list[float | None]]:
        """[items] Users, and within how many seconds (none = all of the log): mixed, the shortest window with any."""
        lengths = [None if math.isinf(length_s) else length_s for length_s in WINDOWS.values()]
        if window == "mixed":
            places = np.argmax(self.users > 0, axis=1)
        else:
            places = np.full(len(self.items), list(WINDOWS).index(window))
        users: Ints = self.users[np.arange(len(self.items)), places]
        return users, [lengths[place] for place in places.tolist()]


def no_ranking() -> Ranking:
    """Of an empty log."""
    windows = len(WINDOWS)
    return Ranking([], np.empty((0, windows), np.int64), np.empty((0, windows)), np.zeros(windows, np.int64))


def mixed(users: Ints, active: Ints) -> Floats:
    """Shares of users by all windows: from the longest to the shortest p_w = (users_w + 50 p_longer) / (active_w + 50).

    A window counts as far as it has users: one of 50 as much as all longer ones together, a quiet one next to nothing.
    It is the back-off of D. MacKay and L. Peto, "A hierarchical Dirichlet language model", 1995, with a fixed prior.

    Args:
        users: [items, windows] shortest window first.
        active: [windows].
    """
    share = users[:, -1] / max(int(active[-1]), 1)
    for place in range(len(active) - 2, -1, -1):
        share = (users[:, place] + BACK_OFF * share) / (active[place] + BACK_OFF)
    return np.asarray(share, np.float64)


def ranking_of(
    user: Ints, item: Ints, age_us: Ints, names: list[str], rank: Ints, half_life_s: float, newest_us: int
) -> Ranking:
    """Count some interactions.

    Args:
        user: [events] number of the user.
        item: [events] place in `names`.
        age_us: [events] before now; not negative.
        names: Item ids.
        rank: [names] order of what is equal.
        half_life_s: After this much more age an interaction counts half as much.
        newest_us: Age of the newest of the log: what `half_life_s` counts from, so that a quiet log does not vanish.
    """
    if not len(user):
        return no_ranking()
    n = len(names)
    # The youngest of each user and item, and of each user: they tell in which windows these are.
    pairs, youngest = _least(user * n + item, age_us)
    _, of_user = _least(pairs // n, youngest)
    recent_weight = np.exp2(-np.maximum(age_us - newest_us, 0) / MICROSECONDS / half_life_s)
    users, recent, active = [], [], []
    for length_s in WINDOWS.values():
        most_us = length_s * MICROSECONDS
        inside = age_us <= most_us
        users.append(np.bincount(pairs[youngest <= most_us] % n, minlength=n))
        recent.append(np.bincount(item[inside], recent_weight[inside], minlength=n))
        active.append(int((of_user <= most_us).sum()))
    found = Ranking(names, np.stack(users, axis=1), np.stack(recent, axis=1), np.array(active))
    orders = [found.shares(), *found.users.T, *found.recent.T]
    best = [np.lexsort([rank, -of])[:MOST_ITEMS] for of in orders]
    kept = np.array(list(dict.fromkeys(np.concatenate(best).tolist())), np.int64)
    kept = kept[found.users[kept, -1] > 0]
    return Ranking([names[place] for place in kept.tolist()], found.users[kept], found.recent[kept], found.active)


def still_until(time_us: Ints, now_us: int) -> int:
    """Until when a log that gets no more interactions is counted the same: before that none leaves a window.

    Args:
        time_us: [events] microseconds since 1970; of one that is still to come the age stands still, so that the
            others' grow beside it: `now_us` then.
        now_us: The moment of the count.
    """
    edges = [now_us if (time_us > now_us).any() else _EVER]
    for length_us in (round(length_s * MICROSECONDS) for length_s in WINDOWS.values() if length_s < math.inf):
        inside = time_us[time_us >= now_us - length_us]
        edges.append(int(inside.min(initial=_EVER - length_us - 1)) + length_us + 1)
    return min(edges)


def _least(keys: Ints, values: Ints) -> tuple[Ints, Ints]:
    """Distinct keys, ascending, and the least value of each."""
    order = np.lexsort([values, keys])
    keys, values = keys[order], values[order]
    first = np.append(True, keys[1:] != keys[:-1])
    return keys[first], values[first]
