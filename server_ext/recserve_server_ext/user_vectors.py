"""Histories -> user vectors, and what each behaviour contributes to a score. Pure NumPy, over a batch of users."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

#: A weighted sum shorter than this share of the sum of the weights has no direction left above float32 noise.
CANCELLED = 1e-4


class UserVectors(NamedTuple):
    """User vectors of a batch.

    Attributes:
        vectors: [users, dim] unit vectors; undefined where `norms` is too small.
        norms: [users] |sum_j w_j F(x_j)|.
        mass: [users] sum_j |w_j|.
    """

    vectors: Vectors
    norms: NDArray[np.float64]
    mass: NDArray[np.float64]

    @property
    def cancelled(self) -> NDArray[np.bool_]:
        """[users] Whether the behaviours add up to (nearly) nothing."""
        return np.asarray(self.norms <= CANCELLED * self.mass)


def user_vectors(behaviours: Vectors, weights: NDArray[np.float64], starts: NDArray[np.int64]) -> UserVectors:
    """u = normalise(sum_j w_j F(x_j)) for every user (design, section 1).

    Args:
        behaviours: [behaviours, dim] unit vectors of all users' behaviours, user after user.
        weights: [behaviours].
        starts: [users] index of each user's first behaviour; every user has at least one.
    """
    mass = np.add.reduceat(np.abs(weights), starts)
    # Scaled by the mass first, so that weights of any size keep float32's precision.
    shares = weights / np.repeat(np.maximum(mass, 1e-300), np.diff(starts, append=len(weights)))
    sums = np.add.reduceat(behaviours * shares.astype(np.float32)[:, None], starts, axis=0)
    lengths = np.sqrt(np.einsum("ij,ij->i", sums, sums, dtype=np.float64))
    vectors = sums / np.maximum(lengths, 1e-30).astype(np.float32)[:, None]
    return UserVectors(vectors, lengths * mass, mass)


def contributions(
    behaviours: Vectors, weights: NDArray[np.float64], norm: float, items: Vectors
) -> NDArray[np.float64]:
    """w_j (F(x_j) . v) / |sum_j w_j F(x_j)| of one user's behaviours to some items.

    Args:
        behaviours: [behaviours, dim] unit vectors.
        weights: [behaviours].
        norm: |sum_j w_j F(x_j)|.
        items: [items, dim] unit vectors.

    Returns:
        [items, behaviours]; a row adds up to the item's score, cos(u, v).
    """
    return (items @ behaviours.T) * (weights / norm)
