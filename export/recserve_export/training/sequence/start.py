"""First item vectors of `sequence`: factors of what stands near in histories."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy import sparse

from recserve_export.training.base import TrainingLog
from recserve_export.training.spaces.linear import truncated_svd
from recserve_server_ext.common.arrays import Ints, Vectors

#: Items on either side whose co-occurrence counts.
_NEIGHBOURS: Final = 5
#: Length of the random part of a vector, whose other part has the length of its factors.
_NOISE: Final = 0.01


def start_vectors(log: TrainingLog, items: Ints, dim: int, seed: int) -> Vectors:
    """[items, dim] unit vectors from a decomposition of the positive pointwise mutual information of near items.

    O. Levy and Y. Goldberg, "Neural word embedding as implicit matrix factorization", NIPS 2014.

    Args:
        log: The log.
        items: [items] those to make vectors of, ascending.
        dim: Length of a vector.
        seed: Of the decomposition.
    """
    place, count = np.searchsorted(items, log.item), len(items)
    together = sparse.csr_array((count, count), dtype=np.float64)
    for lag in range(1, _NEIGHBOURS + 1):
        first = np.flatnonzero(log.user[lag:] == log.user[:-lag])
        together += sparse.coo_array((np.ones(len(first)), (place[first], place[first + lag])), together.shape).tocsr()
    near = (together + together.T).tocoo()
    mass = np.bincount(near.row, near.data, count)
    information = np.log(near.data * mass.sum() / (mass[near.row] * mass[near.col]))
    kept = information > 0
    vectors = _NOISE * np.random.default_rng(seed).standard_normal((count, dim))
    if kept.any():
        cells = sparse.coo_array((information[kept], (near.row[kept], near.col[kept])), together.shape).tocsr()
        left, values, _ = truncated_svd(cells, dim, seed)
        vectors[:, : left.shape[1]] += left * np.sqrt(values)
    unit: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit
