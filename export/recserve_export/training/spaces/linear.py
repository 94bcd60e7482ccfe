"""Linear algebra that trainings share: truncated singular value decompositions, rows of the largest weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

from recserve_server_ext.common.arrays import Floats, Vectors
from recserve_server_ext.index.matrix import ItemMatrix

#: Power iterations of the randomised decomposition: the spectra of logs fall slowly.
_ITERATIONS = 4


def truncated_svd(matrix: Any, rank: int, seed: int) -> tuple[Vectors, Floats, Vectors]:
    """U [rows, rank], s [rank], V' [rank, columns] of a dense or sparse matrix.

    N. Halko, P.-G. Martinsson and J. Tropp, "Finding structure with randomness", SIAM Review 2011.
    """
    rank = max(1, min(rank, *matrix.shape))
    u, s, vt = randomized_svd(matrix, rank, n_iter=_ITERATIONS, random_state=seed)
    return u.astype(np.float32), s.astype(np.float64), vt.astype(np.float32)


def from_rows(row: Any, column: Any, weight: Any, items: int) -> ItemMatrix:
    """A matrix from entries above 0, each row ordered by weight, the largest first."""
    kept = np.flatnonzero(weight > 0)
    kept = kept[np.lexsort([column[kept], -weight[kept], row[kept]])]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row[kept], minlength=items))])
    return ItemMatrix(offsets, column[kept].astype(np.int32), weight[kept].astype(np.float32))


def heaviest_of_sparse(matrix: sparse.csr_array, most: int) -> ItemMatrix:
    """The largest weights above 0 of each row of a sparse [items, items] matrix, without its diagonal."""
    found = matrix.tocoo()
    row, column, weight = found.row.astype(np.int64), found.col.astype(np.int64), found.data
    kept = np.flatnonzero((weight > 0) & (row != column))
    kept = kept[np.lexsort([column[kept], -weight[kept], row[kept]])]
    lengths = np.bincount(row[kept], minlength=matrix.shape[0])
    within = np.arange(len(kept)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    kept = kept[within < most]
    return from_rows(row[kept], column[kept], weight[kept], matrix.shape[0])
