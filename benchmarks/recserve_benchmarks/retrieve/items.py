"""Item vectors to search: real ones of the films' texts, and synthetic ones between them."""

from __future__ import annotations

from typing import Final

import faiss
import numpy as np

from recserve_benchmarks.harness.run import Run
from recserve_server_ext.common.arrays import Vectors

NEIGHBOURS: Final = 10
#: Synthetic items drawn at once (100 MiB of 384 dimensions).
_DRAWN: Final = 65_536


def some_of(real: Vectors, count: int, seed: int) -> Vectors:
    """A seeded choice of item vectors [count, dim] in their order; all where there are no more."""
    if count >= len(real):
        return real
    return real[np.sort(np.random.default_rng(seed).choice(len(real), count, replace=False))]


def grown(real: Vectors, count: int, run: Run) -> Vectors:
    """The real item vectors and synthetic ones after them, [count, dim] in all.

    A synthetic item lies between a random real item and one of its ten nearest, at a random place. So it is where items
    are.

    Args:
        real: [items, dim] unit float32, more than `NEIGHBOURS`.
        count: At least `len(real)`.
        run: Its seed draws the synthetic items.
    """
    items, dim = real.shape
    if count == items:
        return real
    vectors = np.empty((count, dim), np.float32)
    vectors[:items] = real
    run.show("neighbours of real items", 0, items)
    near = faiss.knn(real, real, NEIGHBOURS + 1, metric=faiss.METRIC_INNER_PRODUCT)[1][:, 1:]
    random = np.random.default_rng(run.seed)
    for start in run.each("synthetic items", range(items, count, _DRAWN)):
        size = min(_DRAWN, count - start)
        origins = random.integers(items, size=size)
        others = near[origins, random.integers(NEIGHBOURS, size=size)]
        share = random.uniform(0.1, 0.9, size=(size, 1)).astype(np.float32)
        drawn = real[origins] + share * (real[others] - real[origins])
        vectors[start : start + size] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return vectors
