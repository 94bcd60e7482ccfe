"""Inner products of queries with item vectors by row, without a copy of the vectors."""

from __future__ import annotations

import faiss
import numpy as np

from recserve_server_ext.common.arrays import Rows, Scores, Vectors


def products_by_row(queries: Vectors, vectors: Vectors, rows: Rows) -> Scores:
    """[n, candidates] inner products of each query with its rows; -inf where the row is -1.

    Args:
        queries: [n, dim] float32.
        vectors: [items, dim] float32, contiguous; they may be mapped.
        rows: [n, candidates] int64.
    """
    faiss.omp_set_num_threads(1)  # of the calling thread only
    scores = np.empty(rows.shape, np.float32)
    arrays = (scores, np.ascontiguousarray(queries), vectors, np.ascontiguousarray(rows))
    faiss.fvec_inner_products_by_idx(*map(faiss.swig_ptr, arrays), queries.shape[1], *rows.shape)
    return scores
