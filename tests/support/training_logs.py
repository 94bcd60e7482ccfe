"""Logs to train on, made up."""

from __future__ import annotations

import numpy as np

from recserve_export.training.base import TrainingLog


def log_of(users: int, items: int, interactions: int, seed: int = 0) -> TrainingLog:
    """Random interactions with a skew, and two items without any."""
    random = np.random.default_rng(seed)
    user = np.sort(random.integers(users, size=interactions))
    item = (random.random(interactions) ** 2 * (items - 2)).astype(np.int64)
    time_us = np.arange(interactions) * 1_000_000
    return TrainingLog(user, item, time_us, np.ones(interactions), users, [f"i{n}" for n in range(items)])
