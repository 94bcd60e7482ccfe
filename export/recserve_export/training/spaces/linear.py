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


def from_rows(row: Any, column: Any, weight: Any, items: int, most: int | None = None) -> ItemMatrix:
    """A matrix from entries above 0, each row ordered by weight, the largest first; `most` of a row at most."""
    kept = np.flatnonzero(weight > 0)
    kept = kept[np.lexsort([column[kept], -weight[kept], row[kept]])]
    lengths = np.bincount(row[kept], minlength=items)
    if most is not None:
        kept = kept[np.arange(len(kept)) - np.repeat(np.cumsum(lengths) - lengths, lengths) < most]
        lengths = np.minimum(lengths, most)
    return ItemMatrix(
        np.concatenate([[0], np.cumsum(lengths)]), column[kept].astype(np.int32), weight[kept].astype(np.float32)
    )


def heaviest_of_sparse(matrix: sparse.csr_array, most: int) -> ItemMatrix:
    """The largest weights above 0 of each row of a sparse [items, items] matrix, without its diagonal."""
    weight, lengths = matrix.data, np.diff(matrix.indptr)
    row = np.repeat(np.arange(matrix.shape[0]), lengths)
    # Sorting takes most of the time, so what is lighter than the last one to keep does not come so far.
    least = np.zeros(matrix.shape[0], weight.dtype)
    for long in np.flatnonzero(lengths > most + 1):  # with the diagonal
        of_row = weight[matrix.indptr[long] : matrix.indptr[long + 1]]
        least[long] = np.partition(of_row, -most - 1)[-most - 1]
    kept = np.flatnonzero((weight > 0) & (row != matrix.indices) & (weight >= least[row]))
    return from_rows(row[kept], matrix.indices[kept], weight[kept], matrix.shape[0], most)
