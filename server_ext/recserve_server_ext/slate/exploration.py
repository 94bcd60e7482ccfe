"""Exploration: some of the last places of a slate go to other candidates, with known probabilities.

Thompson sampling as in O. Chapelle and L. Li, An empirical evaluation of Thompson sampling, 2011.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recserve_client.contract import Explore
from recserve_server_ext.interactions.columns import Floats, Ints
from recserve_server_ext.slate.best_draws import rank_chances

#: Places of a slate that Thompson sampling explores at most: their propensities are integrals.
THOMPSON_PLACES: Final = 50


class Explored(NamedTuple):
    """A slate after exploration.

    Attributes:
        picks: [places] places in the ranking.
        drawn: [places] whether the item was drawn.
        propensity: [places] the probability that this place shows this item.
    """

    picks: Ints
    drawn: NDArray[np.bool_]
    propensity: Floats


def explored(
    explore: Explore, length: int, k: int, fixed: NDArray[np.bool_], beliefs: tuple[Floats, Floats] | None = None
) -> Explored:
    """Draw which places explore and what they show.

    A place that may explore shows its own item with the probability 1 - epsilon. Of the kind `epsilon` it shows each
    one of the n candidates after the slate with epsilon / n: draws are without replacement, and any candidate is as
    likely as another in any place. Of the kind `thompson` the places that explore show the candidates with the largest
    draws, in their order; what the s-th of them that may, from 0, shows has the propensity
    epsilon * sum_r Binomial(r; s, epsilon) P(r other candidates draw more).

    Args:
        explore: How.
        length: Items of the ranking: the slate, then the candidates.
        k: Items of the slate.
        fixed: [length] what must keep its place and is not drawn.
        beliefs: [length] parameters of the Beta distributions of the rates of clicks; for the kind `thompson`.
    """
    places = min(k, length)
    picks = np.arange(places)
    pool = np.arange(places, length)
    pool = pool[~fixed[pool]]
    most = min(int(explore.at_most * k), len(pool), places)
    if explore.kind == "thompson":
        most = min(most, THOMPSON_PLACES)
    may = np.zeros(places, np.bool_)
    may[places - most :] = True
    may &= ~fixed[:places]
    drawn = np.zeros(places, np.bool_)
    propensity = np.ones(places)
    if may.any():
        rng = np.random.default_rng(explore.seed)
        drawn = may & (rng.random(places) < explore.epsilon)
        propensity[may] = 1.0 - explore.epsilon
        if explore.kind == "epsilon":
            picks[drawn] = rng.permutation(pool)[: int(drawn.sum())]
            propensity[drawn] = explore.epsilon / len(pool)
        elif drawn.any():
            assert beliefs is not None
            alpha, beta = beliefs[0][pool], beliefs[1][pool]
            best = np.argsort(-rng.beta(alpha, beta), kind="stable")[: int(drawn.sum())]
            picks[drawn] = pool[best]
            before = np.flatnonzero(drawn[may])
            propensity[drawn] = _propensities(explore.epsilon, before, alpha, beta, best)
    return Explored(picks, drawn, propensity)


def _propensities(epsilon: float, before: Ints, alpha: Floats, beta: Floats, best: Ints) -> Floats:
    """[drawn] the probability that each place shows what it shows.

    Args:
        epsilon: Probability that a place explores.
        before: [drawn] places before each that may explore, too.
        alpha: [candidates] of the Beta distributions.
        beta: [candidates] of the Beta distributions.
        best: [drawn] the candidate that each shows.
    """
    ranks = int(before[-1]) + 1
    rank = np.arange(ranks)
    ways = np.array([[math.comb(place, r) for r in range(ranks)] for place in before.tolist()], np.float64)
    # Exponents below 0 belong to ways that are none.
    explored_before = ways * epsilon**rank * (1.0 - epsilon) ** np.maximum(before[:, None] - rank, 0)
    return np.asarray(epsilon * (explored_before * rank_chances(alpha, beta, best, ranks)).sum(axis=1))
