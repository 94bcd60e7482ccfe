"""Histories -> user vectors, and what each behaviour contributes to a score. Pure NumPy, over a batch of users."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recserve_server_ext.common.arrays import Vectors

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


def user_vectors(behaviours: Vectors, weights: NDArray[np.float64]) -> UserVectors:
    """u = normalise(sum_j w_j F(x_j)) for every user (design, section 1).

    Args:
        behaviours: [users, behaviours, dim] unit vectors.
        weights: [users, behaviours].
    """
    mass = np.abs(weights).sum(axis=1)
    # Scaled by the mass first, so that weights of any size keep float32's precision.
    shares = (weights / np.maximum(mass, 1e-300)[:, None]).astype(np.float32)
    sums = np.matmul(shares[:, None, :], behaviours)[:, 0]
    lengths = np.sqrt(np.einsum("ij,ij->i", sums, sums, dtype=np.float64))
    vectors = sums / np.maximum(lengths, 1e-30).astype(np.float32)[:, None]
    return UserVectors(vectors, lengths * mass, mass)


def contributions(
    behaviours: Vectors, weights: NDArray[np.float64], norms: NDArray[np.float64], items: Vectors
) -> NDArray[np.float64]:
    """w_j (F(x_j) . v) / |sum_j w_j F(x_j)| of each user's behaviours to some items.

    Args:
        behaviours: [users, behaviours, dim] unit vectors.
        weights: [users, behaviours].
        norms: [users] |sum_j w_j F(x_j)|.
        items: [users, items, dim] unit vectors.

    Returns:
        [users, items, behaviours]; a row adds up to the item's score, cos(u, v).
    """
    shares: NDArray[np.float64] = (weights / norms[:, None])[:, None, :]
    return np.asarray(shares * np.matmul(items, behaviours.swapaxes(1, 2)))
