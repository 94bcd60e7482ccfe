"""Item vectors for `recserve bench retrieve`: real ones of the films' texts, and past those points between them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recserve_server_ext.exact_engine import ExactEngine

Vectors = NDArray[np.float32]
_NEIGHBOURS = 10
_CHUNK = 4096


class Items(NamedTuple):
    """Vectors to search.

    Attributes:
        vectors: [items, dim] unit float32; the real ones come first.
        synthetic: How many of them are not real.
    """

    vectors: Vectors
    synthetic: int


def items_of(real: Vectors, count: int, seed: int) -> Items:
    """So many item vectors: a seeded choice of the real ones, or all of them and points between neighbours.

    A synthetic point lies on the way from a random real item to one of its ten nearest, at a random place; so it is
    where items are, and not where nobody looks.

    Args:
        real: [items, dim] unit float32.
        count: Wanted.
        seed: Of the choice and of the points.
    """
    random = np.random.default_rng(seed)
    if count <= len(real):
        rows = np.sort(random.choice(len(real), count, replace=False))
        return Items(real[rows], 0)
    exact = ExactEngine(real)
    parts = [real]
    missing = count - len(real)
    for start in range(0, missing, _CHUNK):
        size = min(_CHUNK, missing - start)
        origins = random.integers(len(real), size=size)
        near, _ = exact.search(real[origins], _NEIGHBOURS + 1)
        others = near[np.arange(size), random.integers(1, _NEIGHBOURS + 1, size)]
        share = random.uniform(0.1, 0.9, size=(size, 1)).astype(np.float32)
        between = (1 - share) * real[origins] + share * real[others]
        parts.append(between / np.linalg.norm(between, axis=1, keepdims=True))
    return Items(np.concatenate(parts).astype(np.float32), missing)
