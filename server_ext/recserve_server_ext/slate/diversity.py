"""Maximal marginal relevance: slates whose items are not all alike. Pure NumPy, over a batch of users."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recserve_server_ext.common.arrays import Floats, Ints, Vectors


class MarginalRelevance:
    """What each candidate is worth beside those chosen so far.

    J. Carbonell and J. Goldstein, "The Use of MMR, Diversity-Based Reranking for Reordering Documents and Producing
    Summaries", SIGIR 1998::

        argmax_i  lambda * s(u, i) - (1 - lambda) * max_{j chosen} cos(i, j),    lambda = 1 - diversify

    While nothing is chosen the best score is worth most, whatever lambda is.
    """

    def __init__(self, scores: Floats, vectors: Vectors, diversify: NDArray[np.float64]) -> None:
        """Start with nothing chosen.

        Args:
            scores: [users, n] s(u, i); -inf where there is no candidate.
            vectors: [users, n, dim] unit vectors of the candidates; anything finite where there is none.
            diversify: [users] within [0, 1]: 0 = the order of the scores, 1 = unlike what is chosen and nothing else.
        """
        self._scores = scores
        self._vectors = vectors
        self._penalty_weight = diversify[:, None]
        # -inf * 0 would be NaN where diversify is 1.
        self._relevance = (1.0 - self._penalty_weight) * np.where(np.isfinite(scores), scores, 0.0)
        self._similarity = np.full(scores.shape, -np.inf, np.float32)
        self._begun = np.zeros(len(scores), np.bool_)

    def values(self) -> Floats:
        """[users, n] what each candidate is worth now; undefined where there is none."""
        begun = self._begun[:, None]
        penalty = self._penalty_weight * np.where(begun, self._similarity, 0.0)
        return np.where(begun, self._relevance - penalty, self._scores)

    def take(self, picks: Ints) -> None:
        """Count one candidate of each user as chosen.

        Args:
            picks: [users] candidate; -1 = none.
        """
        took = picks >= 0
        chosen = self._vectors[np.arange(len(picks)), picks]
        similar = np.matmul(self._vectors, chosen[:, :, None])[:, :, 0]
        np.maximum(self._similarity, similar, out=self._similarity, where=took[:, None])
        self._begun |= took


def best_of(values: Floats, allowed: NDArray[np.bool_]) -> Ints:
    """The allowed candidate of the greatest value of each user, of equal ones the first; -1 where none is allowed.

    Args:
        values: [users, n]; those of candidates that are not allowed do not matter.
        allowed: [users, n].
    """
    picks = np.where(allowed, values, -np.inf).argmax(axis=1)
    return np.where(allowed[np.arange(len(picks)), picks], picks, -1)


def diversified(scores: Floats, vectors: Vectors, k: int, diversify: NDArray[np.float64]) -> Ints:
    """Choose k candidates of each user, one after the other, by `MarginalRelevance`.

    Every choice depends only on those before it, so the first of k picks are the picks of a smaller k.

    Args:
        scores: [users, n], best first for a stable order of ties; -inf where there is no candidate.
        vectors: [users, n, dim] unit vectors of the candidates.
        k: Number of picks.
        diversify: [users] within [0, 1].

    Returns:
        [users, min(k, n)] candidates in the order of their choice; -1 where a user has no more.
    """
    users = np.arange(len(scores))
    free = np.isfinite(scores)
    picks = np.full((len(scores), min(k, scores.shape[1])), -1, np.int64)
    relevance = MarginalRelevance(scores, vectors, diversify)
    for place in range(picks.shape[1]):
        if place:
            relevance.take(picks[:, place - 1])
        picks[:, place] = best_of(relevance.values(), free)
        free[users, picks[:, place]] = False
    return picks
