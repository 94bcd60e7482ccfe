"""The strategy `text`: cosine similarity of a user vector and item vectors, both from the text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from recserve_client.contract import ErrorKind, RequestError
from recserve_server_ext.common.arrays import Floats, Vectors
from recserve_server_ext.index.space import TEXT
from recserve_server_ext.strategies.base import Query, behaviour_vectors
from recserve_server_ext.strategies.spaces.vector_space import UserVectors, VectorSpace

#: A weighted sum shorter than this share of the sum of the weights is float32 noise: it has no direction.
CANCELLED: Final = 1e-4


class Text(VectorSpace):
    """score = cos(u, v), u = normalise(sum_j w_j F(x_j)): see docs/explanation/scoring.md."""

    space = TEXT
    needs_texts = True

    def user_vectors(self, queries: Sequence[Query]) -> UserVectors:
        """The normalised weighted sums of the behaviour vectors."""
        behaviours = behaviour_vectors(self.view(queries[0]), [query.profile for query in queries])
        weights = np.array([query.profile.weights for query in queries])
        means = weighted_means(behaviours, weights)
        cancelled = means.norms <= CANCELLED * means.mass

        def refusal(user: int) -> RequestError:
            return RequestError(
                ErrorKind.VECTORS_CANCEL,
                f"the weighted behaviours add up to a vector of length {means.norms[user]:.2g}, with weights of "
                f"{means.mass[user]:.6g} in all: no direction is left",
            )

        shares = weights / np.where(cancelled, 1.0, means.norms)[:, None]
        return UserVectors(means.vectors, cancelled, refusal, behaviours, shares)


class Means(NamedTuple):
    """Weighted means of the behaviour vectors of users.

    Attributes:
        vectors: [users, dim] unit vectors; undefined where `norms` is too small.
        norms: [users] |sum_j w_j F(x_j)|.
        mass: [users] sum_j |w_j|.
    """

    vectors: Vectors
    norms: Floats
    mass: Floats


def weighted_means(behaviours: Vectors, weights: Floats) -> Means:
    """u = normalise(sum_j w_j F(x_j)) for every user.

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
    return Means(vectors, lengths * mass, mass)
