"""Made-up logs of any size: popularity is skewed, and users keep to a part of the items."""

from __future__ import annotations

from typing import Final

import numpy as np

from recserve_server_ext.common.arrays import Ints, Vectors
from recserve_server_ext.common.units import DAY_S, MICROSECONDS
from recserve_server_ext.interactions.columns import InteractionColumns

_TASTES: Final = 20
_DAYS: Final = 365
#: When it begins, in seconds since 1970: times of 1970 would be taken for the order of rows.
_START_S: Final = 1_700_000_000
#: How fast popularity falls with the rank of an item, and activity with that of a user (Zipf).
_SKEW: Final = 0.9


def made_log(*, users: int, items: int, interactions: int, seed: int = 0) -> InteractionColumns:
    """Interactions of the type `click` over a year; every user has one, and half of them are of the user's taste."""
    rng = np.random.default_rng(seed)
    user = np.concatenate([np.arange(users), _skewed(rng, users, interactions - users)])
    user.sort()
    subject = _skewed(rng, items, interactions)
    # Of the taste of a user: an item of the same popularity whose number has the same remainder.
    own = rng.random(interactions) < 0.5
    moved = subject - subject % _TASTES + user % _TASTES
    subject = np.where(own & (moved < items), moved, subject)
    time_us = (_START_S + rng.integers(0, round(_DAYS * DAY_S), interactions)) * MICROSECONDS
    nothing = np.full(interactions, np.nan)
    return InteractionColumns(
        offsets=np.concatenate([[0], np.cumsum(np.bincount(user, minlength=users))]),
        time_us=time_us,
        type=np.zeros(interactions, np.int64),
        subject=subject,
        value=nothing,
        duration_s=nothing,
        price=nothing,
        quantity=nothing,
        types=["click"],
        subjects=[f"i{item}" for item in range(items)],
        is_item=np.ones(items, np.bool_),
    )


def unit_vectors(items: int, dim: int = 8, seed: int = 0) -> Vectors:
    """[items, dim] random unit vectors."""
    vectors = np.random.default_rng(seed).standard_normal((items, dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _skewed(rng: np.random.Generator, n: int, size: int) -> Ints:
    """Numbers below n, small ones more often."""
    share = np.cumsum(1.0 / np.arange(1, n + 1) ** _SKEW)
    found: Ints = np.searchsorted(share, rng.random(size) * share[-1]).astype(np.int64)
    return found
