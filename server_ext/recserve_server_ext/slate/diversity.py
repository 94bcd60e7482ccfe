"""Maximal marginal relevance (MMR): slates of items that differ. Pure NumPy, over a batch of users."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recserve_server_ext.common.arrays import Floats, Ints, Vectors


class MarginalRelevance:
    """Marginal relevance of each candidate, given those chosen so far.

    J. Carbonell and J. Goldstein, "The Use of MMR, Diversity-Based Reranking for Reordering Documents and Producing
    Summaries", SIGIR 1998::

        argmax_i  lambda * s(u, i) - (1 - lambda) * max_{j chosen} cos(i, j),    lambda = 1 - diversify

    The first choice is the candidate with the highest score, whatever lambda is.
    """

    def __init__(self, scores: Floats, vectors: Vectors, diversify: NDArray[np.float64]) -> None:
        """Start with nothing chosen.

        Args:
            scores: [users, n] s(u, i); -inf where there is no candidate.
            vectors: [users, n, dim] unit vectors of the candidates; anything finite where there is none.
            diversify: [users] within [0, 1]: 0 orders by score, 1 only by difference to the chosen items.
        """
        self._scores = scores
        self._vectors = vectors
        self._penalty_weight = diversify[:, None]
        # -inf * 0 would be NaN where diversify is 1.
        self._relevance = (1.0 - self._penalty_weight) * np.where(np.isfinite(scores), scores, 0.0)
        self._similarity = np.full(scores.shape, -np.inf, np.float32)
        self._has_choice = np.zeros(len(scores), np.bool_)

    def values(self) -> Floats:
        """[users, n] marginal relevance of each candidate; undefined where there is none."""
        has_choice = self._has_choice[:, None]
        penalty = self._penalty_weight * np.where(has_choice, self._similarity, 0.0)
        return np.where(has_choice, self._relevance - penalty, self._scores)

    def take(self, picks: Ints) -> None:
        """Add one candidate of each user to the chosen ones: picks [users], -1 for a user without one."""
        took = picks >= 0
        chosen = self._vectors[np.arange(len(picks)), picks]
        similar = np.matmul(self._vectors, chosen[:, :, None])[:, :, 0]
        np.maximum(self._similarity, similar, out=self._similarity, where=took[:, None])
        self._has_choice |= took


def best_of(values: Floats, allowed: NDArray[np.bool_]) -> Ints:
    """The allowed candidate with the greatest value of each user, the first of equal ones; -1 where none is allowed.

    Args:
        values: [users, n]; values of candidates that are not allowed do not matter.
        allowed: [users, n].
    """
    picks = np.where(allowed, values, -np.inf).argmax(axis=1)
    return np.where(allowed[np.arange(len(picks)), picks], picks, -1)
