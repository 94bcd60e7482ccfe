"""Popularity: users and recent interactions of each item within the last day, week, month and the whole log."""

from __future__ import annotations

import math
from typing import Final, Literal, NamedTuple

import numpy as np

from recserve_server_ext.common.arrays import Floats, Ints
from recserve_server_ext.common.units import DAY_S, MICROSECONDS

#: The last 1, 7 or 30 days, the whole log, or all of these windows smoothed into one (`mixed`).
PopularWindow = Literal["day", "week", "month", "all", "mixed"]
#: Length of each window in seconds, shortest first.
WINDOWS: Final[dict[PopularWindow, float]] = {
    "day": DAY_S,
    "week": 7 * DAY_S,
    "month": 30 * DAY_S,
    "all": math.inf,
}
#: Active users at which a window weighs as much as all longer ones together.
BACK_OFF: Final = 50.0
#: Later than any time, in microseconds.
_NEVER_US: Final = 2**62
#: Items that are kept of each ranking: by smoothed share, and by users and recent interactions of each window.
MAX_ITEMS: Final = 5000


class PopularityCounts(NamedTuple):
    """Users and recent interactions of items, within each window.

    Attributes:
        items: Item ids.
        users: [items, windows] users who had the item.
        recent: [items, windows] interactions with the item, each decayed by its age.
        active: [windows] users who had any item.
        age_s: [items] seconds since the first interaction with the item.
    """

    items: list[str]
    users: Ints
    recent: Floats
    active: Ints
    age_s: Floats

    def shares(self, window: PopularWindow = "mixed") -> Floats:
        """[items] share of a window's active users that had the item; for `mixed` see `smoothed_shares`."""
        if window == "mixed":
            return smoothed_shares(self.users, self.active)
        place = list(WINDOWS).index(window)
        return np.asarray(self.users[:, place] / max(int(self.active[place]), 1))

    def recent_in(self, window: PopularWindow = "mixed") -> Floats:
        """[items] decayed interactions within a window; `mixed` takes the whole log."""
        return np.asarray(self.recent[:, list(WINDOWS).index("all" if window == "mixed" else window)])

    def facts(self, window: PopularWindow = "mixed") -> tuple[Ints, list[float | None]]:
        """[items] users, and the length of their window in seconds; `None` for the whole log.

        For `mixed` the window is the shortest one with a user.
        """
        lengths = [None if math.isinf(length_s) else length_s for length_s in WINDOWS.values()]
        if window == "mixed":
            places = np.argmax(self.users > 0, axis=1)
        else:
            places = np.full(len(self.items), list(WINDOWS).index(window))
        users: Ints = self.users[np.arange(len(self.items)), places]
        return users, [lengths[place] for place in places.tolist()]


def no_popularity() -> PopularityCounts:
    """The counts of an empty log."""
    windows = len(WINDOWS)
    return PopularityCounts(
        [], np.empty((0, windows), np.int64), np.empty((0, windows)), np.zeros(windows, np.int64), np.empty(0)
    )


def smoothed_shares(users: Ints, active: Ints) -> Floats:
    """[items] shares of users, smoothed over all windows: p_w = (users_w + 50 p_longer) / (active_w + 50).

    The recursion runs from the longest window to the shortest. A window with 50 active users weighs as much as all
    longer ones together; a quiet window hardly counts. This is the back-off of D. MacKay and L. Peto, "A hierarchical
    Dirichlet language model", 1995, with a fixed prior.

    Args:
        users: [items, windows] users of each item, shortest window first.
        active: [windows] active users.
    """
    share = users[:, -1] / max(int(active[-1]), 1)
    for place in range(len(active) - 2, -1, -1):
        share = (users[:, place] + BACK_OFF * share) / (active[place] + BACK_OFF)
    return np.asarray(share, np.float64)


def count_popularity(
    user: Ints, item: Ints, age_us: Ints, names: list[str], rank: Ints, half_life_s: float, newest_us: int
) -> PopularityCounts:
    """Count the users and recent interactions of each item.

    Args:
        user: [interactions] number of the user.
        item: [interactions] position in `names`.
        age_us: [interactions] age in microseconds; not negative.
        names: Item ids.
        rank: [names] order of ties.
        half_life_s: Age that halves an interaction's weight.
        newest_us: Age of the newest interaction of the log. Decay begins there, so that a quiet log keeps its weights.
    """
    if not len(user):
        return no_popularity()
    n = len(names)
    # The newest interaction of each user and item, and of each user, tells which windows they are in.
    pairs, youngest = _least(user * n + item, age_us)
    _, youngest_of_user = _least(pairs // n, youngest)
    recent_weight = np.exp2(-np.maximum(age_us - newest_us, 0) / MICROSECONDS / half_life_s)
    users, recent, active = [], [], []
    for length_s in WINDOWS.values():
        length_us = length_s * MICROSECONDS
        inside = age_us <= length_us
        users.append(np.bincount(pairs[youngest <= length_us] % n, minlength=n))
        recent.append(np.bincount(item[inside], recent_weight[inside], minlength=n))
        active.append(int((youngest_of_user <= length_us).sum()))
    age_s = np.zeros(n)
    np.maximum.at(age_s, item, age_us / MICROSECONDS)
    counts = PopularityCounts(names, np.stack(users, axis=1), np.stack(recent, axis=1), np.array(active), age_s)
    rankings = [counts.shares(), *counts.users.T, *counts.recent.T]
    best = [np.lexsort([rank, -values])[:MAX_ITEMS] for values in rankings]
    kept = np.array(list(dict.fromkeys(np.concatenate(best).tolist())), np.int64)
    kept = kept[counts.users[kept, -1] > 0]
    ids = [names[place] for place in kept.tolist()]
    return PopularityCounts(ids, counts.users[kept], counts.recent[kept], counts.active, age_s[kept])


def unchanged_until(time_us: Ints, now_us: int) -> int:
    """Time until which the counts of an unchanged log stay the same: when the next interaction leaves a window.

    It is `now_us` where an interaction lies in the future: the ages of all others change relative to its age of 0.

    Args:
        time_us: [interactions] microseconds since 1970.
        now_us: Time of the count, in microseconds since 1970.
    """
    edges = [now_us if (time_us > now_us).any() else _NEVER_US]
    for length_us in (round(length_s * MICROSECONDS) for length_s in WINDOWS.values() if length_s < math.inf):
        inside = time_us[time_us >= now_us - length_us]
        edges.append(int(inside.min(initial=_NEVER_US - length_us - 1)) + length_us + 1)
    return min(edges)


def _least(keys: Ints, values: Ints) -> tuple[Ints, Ints]:
    """Distinct keys, ascending, and the smallest value of each."""
    order = np.lexsort([values, keys])
    keys, values = keys[order], values[order]
    first = np.append(True, keys[1:] != keys[:-1])
    return keys[first], values[first]
