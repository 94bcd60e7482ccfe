"""Histories as sparse rows: what each interaction came after."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from recserve_export.training.base import TrainingLog
from recserve_server_ext.common.arrays import Ints


def decayed_histories(log: TrainingLog, half_life: float, window: int) -> tuple[Any, Ints]:
    """What came before each interaction, and which interactions have anything before them.

    Args:
        log: The log.
        half_life: Number of newer interactions after which one counts half as much.
        window: Interactions before that count.

    Returns:
        [windows, items] float32 sparse rows, and [windows] the interactions that follow them.
    """
    rows, columns, values = [], [], []
    place = np.arange(len(log.item))
    for lag in range(1, window + 1):
        later = place[lag:][log.user[lag:] == log.user[:-lag]]
        rows.append(later)
        columns.append(log.item[later - lag])
        values.append(np.full(len(later), 2.0 ** (-(lag - 1) / half_life), np.float32))
    shape = len(log.item), len(log.items)
    parts = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
    histories = sparse.coo_array(parts, shape).tocsr()
    following = np.flatnonzero(np.diff(histories.indptr))
    return histories[following], following
