"""What is popular, with differential privacy: what one user adds is bounded, and the numbers carry noise."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from recserve_client.contract import PopularWindow
from recserve_server_ext.common.arrays import Ints
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.config.counts import PopularPrivacy
from recserve_server_ext.counts.counts import LogColumns
from recserve_server_ext.counts.popularity import MOST_ITEMS, WINDOWS, Ranking, no_ranking


def private_ranking(log: LogColumns, now_us: int, privacy: PopularPrivacy, sign: Callable[[bytes], str]) -> Ranking:
    """Items by a noisy number of their users, most first; `recent` is the same number.

    Of each user the newest items count, and every number of users, as well as that of active users, gets two-sided
    geometric noise, P(z) = (1 - a) / (1 + a) a^|z| (Ghosh, Roughgarden and Sundararajan, 2009). With one user more or
    less the answer is (epsilon, delta)-indistinguishable; delta comes from items that nobody else had to do with
    (Korolova et al., 2009).

    The noise is drawn from a secret and the numbers themselves: the same log gives the same noise in every process and
    at every count, so asking again tells nothing more. Each changed log that is counted is a release of its own.

    Args:
        log: The interactions.
        now_us: When, in microseconds since 1970: what the window ends with.
        privacy: Bound and noise.
        sign: A keyed hash of the secret.
    """
    since_us = now_us - WINDOWS[privacy.window] * MICROSECONDS
    pairs, n = _clipped(log, since_us, privacy.items), len(log.items)
    if not n:
        return no_ranking()
    seed = hashlib.sha256("\0".join(log.items).encode() + pairs.tobytes()).digest()
    draw = np.random.default_rng(list(bytes.fromhex(sign(b"popularity" + seed))))
    noise = geometric_noise(draw, privacy.ratio, n + 1)
    counted = np.bincount(pairs % n, minlength=n)
    # What nobody did must look like what is not in the log.
    users = np.where(counted > 0, counted + noise[:n], 0)
    kept = np.lexsort([np.array(log.items, np.str_), -users])[:MOST_ITEMS]
    kept = kept[users[kept] >= privacy.fewest]
    active = max(len(np.unique(pairs // n)) + int(noise[n]), 0)
    return _of_one_window(privacy.window, [log.items[place] for place in kept.tolist()], users[kept], active)


def _of_one_window(window: PopularWindow, items: list[str], users: Ints, active: int) -> Ranking:
    place = list(WINDOWS).index(window)
    by_window = np.zeros((len(items), len(WINDOWS)), np.int64)
    by_window[:, place] = users
    of_any = np.zeros(len(WINDOWS), np.int64)
    of_any[place] = active
    return Ranking(items, by_window, by_window.astype(np.float64), of_any, only=window)


def geometric_noise(draw: np.random.Generator, ratio: float, count: int) -> Ints:
    """[count] Two-sided geometric: the difference of two geometric variables with P(k) = (1 - a) a^k."""
    one, other = (draw.geometric(1 - ratio, count).astype(np.int64) for _ in range(2))
    return one - other


def _clipped(log: LogColumns, since_us: float, items: int) -> Ints:
    """[pairs] user * number of items + item, each once and ascending: of every user the newest items."""
    recent = np.flatnonzero(log.time_us >= since_us)
    order = recent[np.lexsort([-log.time_us[recent], log.user[recent]])]
    keys = log.user[order] * len(log.items) + log.item[order]
    _, first = np.unique(keys, return_index=True)
    first.sort()  # by user, newest first
    user = keys[first] // max(len(log.items), 1)
    starts = np.flatnonzero(np.diff(user, prepend=-1))
    place = np.arange(len(user)) - np.repeat(starts, np.diff(np.append(starts, len(user))))
    return np.sort(keys[first][place < items])
