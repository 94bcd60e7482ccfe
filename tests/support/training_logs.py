"""Logs to train on, made up."""

from __future__ import annotations

import numpy as np

from recserve_export.training.base import TrainingLog
from recserve_server_ext.common.arrays import Ints
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.interactions.columns import InteractionColumns


def log_of(users: int, items: int, interactions: int, seed: int = 0) -> TrainingLog:
    """Random interactions with a skew, and two items without any."""
    random = np.random.default_rng(seed)
    user = np.sort(random.integers(users, size=interactions))
    item = (random.random(interactions) ** 2 * (items - 2)).astype(np.int64)
    return log_from(user, item, users, items)


def columns_from(offsets: Ints, item: Ints, time_us: Ints, items: int, type_: str) -> InteractionColumns:
    """Interactions of one type without measures; those of a user begin at each of the offsets [users + 1]."""
    missing = np.full(len(item), np.nan)
    return InteractionColumns(
        offsets=offsets,
        time_us=time_us,
        type=np.zeros(len(item), np.int64),
        subject=item,
        value=missing,
        duration_s=missing,
        price=missing,
        quantity=missing,
        types=[type_],
        subjects=[f"i{n}" for n in range(items)],
        is_item=np.ones(items, np.bool_),
    )


def log_from(user: Ints, item: Ints, users: int, items: int) -> TrainingLog:
    """The log of these interactions, sorted by user, a second apart."""
    time_us = np.arange(len(user)) * 1_000_000
    offsets = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=users))])
    columns = columns_from(offsets, item, time_us, items, "view")
    return TrainingLog(user, item, time_us, np.ones(len(user)), users, columns.subjects, columns, HistoryRules())
