"""Item vectors for `recserve bench retrieve`: real ones of the films' texts, and past those points between them."""

from __future__ import annotations

from collections.abc import Callable

import faiss
import numpy as np
from numpy.typing import NDArray

from recserve_server_ext.common.arrays import Vectors

NEIGHBOURS = 10
#: Queries of one exact search: few calls of many queries are what faiss is fast at.
_QUERIES = 4096
#: Synthetic points drawn at once (100 MiB of 384 dimensions).
_POINTS = 65_536


def some_of(real: Vectors, count: int, seed: int) -> Vectors:
    """A seeded choice of real item vectors [count, dim], in their order; all where there are no more.

    Args:
        real: [items, dim] unit float32.
        count: Wanted, at least one.
        seed: Of the choice.
    """
    if count >= len(real):
        return real
    return real[np.sort(np.random.default_rng(seed).choice(len(real), count, replace=False))]


def grown(real: Vectors, count: int, seed: int, done: Callable[[str, int, int], None]) -> Vectors:
    """The real item vectors and after them synthetic ones, [count, dim] in all.

    A synthetic point lies on the way from a random real item to one of its ten nearest, at a random place; so it is
    where items are, and not where nobody looks. The first n rows are for every n what `grown` gives for n.

    Args:
        real: [items, dim] unit float32, more than `NEIGHBOURS`.
        count: At least `len(real)`.
        seed: Of the points.
        done: Says how far it is.
    """
    items, dim = real.shape
    vectors = np.empty((count, dim), np.float32)
    vectors[:items] = real
    near = _neighbours(vectors[:items], done) if count > items else None
    for start in range(items, count, _POINTS):
        done("synthetic items", start, count)
        random = np.random.default_rng([seed, start])
        origins = random.integers(items, size=_POINTS)
        ranks = random.integers(NEIGHBOURS, size=_POINTS)
        share = random.uniform(0.1, 0.9, size=(_POINTS, 1)).astype(np.float32)
        points = vectors[start : start + _POINTS]
        size = len(points)
        assert near is not None
        points[:] = real[origins[:size]]
        points += share[:size] * (real[near[origins[:size], ranks[:size]]] - points)
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    done("synthetic items", count, count)
    return vectors


def _neighbours(real: Vectors, done: Callable[[str, int, int], None]) -> NDArray[np.int64]:
    """Rows of the ten nearest others of every item [items, 10]; of equal items, one may be its own neighbour."""
    near = np.empty((len(real), NEIGHBOURS), np.int64)
    for start in range(0, len(real), _QUERIES):
        done("neighbours of real items", start, len(real))
        queries = real[start : start + _QUERIES]
        _, rows = faiss.knn(queries, real, NEIGHBOURS + 1, metric=faiss.METRIC_INNER_PRODUCT)
        near[start : start + _QUERIES] = rows[:, 1:]
    return near
