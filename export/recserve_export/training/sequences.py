"""Histories as sparse rows: what each interaction came after."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from recserve_export.training.base import TrainingLog
from recserve_server_ext.common.arrays import Ints


def decayed_histories(log: TrainingLog, half_life: float, window: int, first: int, end: int) -> tuple[Any, Ints]:
    """What came before each of some interactions, and which of them have anything before them.

    Args:
        log: The log.
        half_life: Number of newer interactions after which one counts half as much.
        window: Interactions before that count.
        first: The first of these interactions.
        end: The interaction after the last one.

    Returns:
        [windows, items] float32 sparse rows, and [windows] the interaction that follows each.
    """
    rows, columns, values = [], [], []
    for lag in range(1, window + 1):
        later = np.arange(max(first, lag), end)
        later = later[log.user[later] == log.user[later - lag]]
        rows.append(later - first)
        columns.append(log.item[later - lag])
        values.append(np.full(len(later), 2.0 ** (-(lag - 1) / half_life), np.float32))
    shape = end - first, len(log.items)
    parts = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
    histories = sparse.coo_array(parts, shape).tocsr()
    following = np.flatnonzero(np.diff(histories.indptr))
    return histories[following], first + following
