"""Trains `transitions`: ridge regression from decayed histories to the item that follows (SLIT).

M. Choi et al., "Session-aware linear item-item models for session-based recommendation", WWW 2021.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, NamedTuple

import numpy as np
from msgspec import Meta
from scipy import linalg, sparse

from recserve_export.training.base import Learned, Trainer, TrainingLog, TrainSettings
from recserve_export.training.sequences import decayed_histories
from recserve_export.training.spaces.linear import heaviest_of_sparse
from recserve_server_ext.common.arrays import Floats, Ints, Vectors

#: Interactions whose histories are in memory at once.
_AT_ONCE: Final = 1_000_000


class TransitionsSettings(TrainSettings, frozen=True):
    """Settings of `transitions`.

    Attributes:
        l2: Strength of the regularisation.
        half_life: Number of newer interactions after which one of the history counts half as much.
        window: Interactions of the history that count.
        most: Weights of each item that are kept.
        exact_items: Items, the most frequent ones, whose weights are regressed together; those of the others are
            regressed one by one.
    """

    l2: Annotated[float, Meta(gt=0, le=1e9)] = 300.0
    half_life: Annotated[float, Meta(gt=0, le=1e6)] = 4.0
    window: Annotated[int, Meta(ge=1, le=1000)] = 20
    most: Annotated[int, Meta(ge=1, le=10_000)] = 100
    exact_items: Annotated[int, Meta(ge=0, le=50_000)] = 6000


class TransitionsTrainer(Trainer):
    """W = (X'X + l2 I)^-1 X'Y: rows of X are decayed histories, rows of Y the item that follows."""

    Settings = TransitionsSettings
    grid = ({}, {"l2": 30.0}, {"l2": 100.0}, {"l2": 1000.0})

    def train(self, log: TrainingLog, text: Vectors | None, settings: TransitionsSettings) -> Learned:
        """Learn the weights of all pairs of items, of which the largest of each item are kept."""
        frequent = np.argsort(-log.counts, kind="stable")[: settings.exact_items]
        frequent = np.sort(frequent[log.counts[frequent] > 0])
        products = _products(log, frequent, settings)
        # One by one: the weights of X alone, as if histories had one item each.
        weights = sparse.diags_array((1.0 / (products.squares + settings.l2)).astype(np.float32)) @ products.targets
        if len(frequent):
            weights = _with_block(weights.tocsr(), frequent, _regressed(products, frequent, settings.l2))
        return Learned(items=np.arange(len(log.items)), matrix=heaviest_of_sparse(weights.tocsr(), settings.most))

    def needed_bytes(self, log: TrainingLog, settings: TransitionsSettings) -> int:
        """The windows that are counted at once, all pairs of items, and dense matrices of the frequent items."""
        frequent = min(int(np.count_nonzero(log.counts)), settings.exact_items)
        windows = settings.window * min(len(log.item), _AT_ONCE)
        return 60 * windows + 40 * settings.window * len(log.item) + 40 * frequent * frequent


class _Products(NamedTuple):
    """Products of the histories X and the items Y that follow.

    Attributes:
        targets: [items, items] sparse X'Y.
        squares: [items] diagonal of X'X.
        gram: [frequent, frequent] X'X of the frequent items.
    """

    targets: Any
    squares: Floats
    gram: Floats


def _products(log: TrainingLog, frequent: Ints, settings: TransitionsSettings) -> _Products:
    """The products of all histories, of some interactions at a time."""
    items = len(log.items)
    targets, squares = sparse.csr_array((items, items), dtype=np.float32), np.zeros(items)
    gram = np.zeros((len(frequent), len(frequent)))
    for first in range(0, len(log.item), _AT_ONCE):
        end = min(first + _AT_ONCE, len(log.item))
        histories, following = decayed_histories(log, settings.half_life, settings.window, first, end)
        ones = np.ones(len(following), np.float32)
        nexts = sparse.csr_array((ones, (np.arange(len(following)), log.item[following])), (len(following), items))
        targets = (targets + histories.T @ nexts).tocsr()
        squares += np.bincount(histories.indices, histories.data.astype(np.float64) ** 2, minlength=items)
        own = histories[:, frequent]
        gram += (own.T @ own).toarray()
    return _Products(targets, squares, gram)


def _regressed(products: _Products, frequent: Ints, l2: float) -> Vectors:
    """[frequent, frequent] weights that are regressed together."""
    gram = products.gram
    gram[np.diag_indices(len(frequent))] += l2
    aims = products.targets[frequent][:, frequent].toarray().astype(np.float64)
    solved: Vectors = linalg.solve(gram, aims, assume_a="pos", overwrite_a=True, overwrite_b=True).astype(np.float32)
    return solved


def _with_block(weights: Any, rows: Ints, block: Vectors) -> Any:
    """Sparse weights whose entries between some items are those of a dense block."""
    found = weights.tocoo()
    inside = np.zeros(weights.shape[0], np.bool_)
    inside[rows] = True
    kept = ~(inside[found.row] & inside[found.col])
    # Weights below 0 are not kept in any case.
    place, other = np.nonzero(block > 0)
    entries = np.concatenate([found.data[kept], block[place, other]])
    places = np.concatenate([found.row[kept], rows[place]]), np.concatenate([found.col[kept], rows[other]])
    return sparse.csr_array((entries, places), weights.shape)
