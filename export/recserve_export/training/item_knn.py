"""Trains `item_knn`: cosine similarity of items by common users, over the whole log.

F. Aiolli, "Efficient top-N recommendation for very large scale binary rated datasets", RecSys 2013.
"""

from __future__ import annotations

from typing import Annotated, Final

import numpy as np
from msgspec import Meta
from scipy import sparse

from recserve_export.training.base import Learned, Trainer, TrainingLog, TrainSettings
from recserve_export.training.spaces.linear import heaviest_of_sparse
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.index.matrix import ItemMatrix

#: Pairs of items that are counted at once, unless one item alone has more.
_AT_ONCE: Final = 20_000_000


class ItemKnnSettings(TrainSettings, frozen=True):
    """Settings of `item_knn`.

    Attributes:
        shrink: Users added to the denominator, so that few common users say little.
        most: Neighbours of each item that are kept.
        most_of_user: Items of a user that count, the newest ones.
    """

    shrink: Annotated[float, Meta(ge=0, le=1e6)] = 5.0
    most: Annotated[int, Meta(ge=1, le=10_000)] = 100
    most_of_user: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000


class ItemKnnTrainer(Trainer):
    """s(i, j) = c_ij / (sqrt(c_i c_j) + shrink): c counts common users."""

    Settings = ItemKnnSettings
    grid = ({}, {"shrink": 0.0}, {"shrink": 20.0})

    def train(self, log: TrainingLog, text: Vectors | None, settings: ItemKnnSettings) -> Learned:
        """Count common users of all pairs of items, some items at a time, and keep the most similar ones."""
        seen = _newest(log, settings.most_of_user)
        items = len(log.items)
        counts = np.bincount(seen.indices, minlength=items).astype(np.float64)
        by_item = seen.T.tocsr()
        # Pairs that each item has at most: the items of its users.
        pairs = np.concatenate([[0], np.cumsum(by_item @ np.diff(seen.indptr).astype(np.float64))])
        lengths, columns, weights = [], [], []
        first = 0
        while first < items:
            end = max(first + 1, int(np.searchsorted(pairs, pairs[first] + _AT_ONCE, "right")) - 1)
            common = (by_item[first:end] @ seen).tocoo()
            row = common.row.astype(np.int64) + first
            scale = np.sqrt(counts[row] * counts[common.col]) + settings.shrink
            block = sparse.csr_array(((common.data / scale).astype(np.float32), (row, common.col)), (end, items))
            kept = heaviest_of_sparse(block, settings.most)
            lengths.append(np.diff(kept.offsets)[first:])
            columns.append(kept.columns)
            weights.append(kept.weights)
            first = end
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
        matrix = ItemMatrix(offsets, np.concatenate(columns), np.concatenate(weights))
        return Learned(items=np.arange(items), matrix=matrix)

    def needed_bytes(self, log: TrainingLog, settings: ItemKnnSettings) -> int:
        """Two sparse matrices of the log, the pairs that are counted at once, and what is kept."""
        items = int(np.count_nonzero(log.counts))
        return 24 * len(log.item) + 80 * _AT_ONCE + 16 * settings.most * items


def _newest(log: TrainingLog, most: int) -> sparse.csr_array:
    """[users, items] 1 where an item is among the newest of a user."""
    lengths = np.bincount(log.user, minlength=log.users)
    if lengths.max(initial=0) <= most:
        return log.seen
    before_end = np.repeat(np.cumsum(lengths), lengths) - 1 - np.arange(len(log.user))
    kept = before_end < most
    pairs = np.unique(log.user[kept] * len(log.items) + log.item[kept])
    user, item = np.divmod(pairs, len(log.items))
    return sparse.csr_array((np.ones(len(pairs), np.float32), (user, item)), log.seen.shape)
