"""Exploration: some of the last places of a slate go to other candidates, with known probabilities.

Thompson sampling as in O. Chapelle and L. Li, An empirical evaluation of Thompson sampling, 2011.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recserve_client.contract import Explore
from recserve_server_ext.common.arrays import Floats, Ints

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


#: Nodes of a distribution, in standard deviations of logit(x) from its mode: dense there, and far into the tails.
_NODES: Final = np.sinh(np.linspace(-3.2, 3.2, 41))


#: Cells of the grid: at least, for each distinct distribution, and at most.
_CELLS: Final = 256


_OF_EACH: Final = 2


_MOST_CELLS: Final = 512


#: What aliasing and rounding of an inverted generating function may come to.
_ALIASED: Final = 1e-8


def rank_chances(alpha: Floats, beta: Floats, asked: Ints, ranks: int) -> Floats:
    """P(exactly r other candidates draw more), r = 0 .. ranks - 1, by numerical integration.

    With f_i the density of candidate i and S_j(x) = P(j draws more than x), it is the integral over x of f_i(x) times
    the coefficient of z^r in prod_{j != i} (1 - S_j(x) + S_j(x) z). Integrated by Simpson's rule over logit(x) on a
    grid of the quantiles of all candidates; the coefficients come from values on a circle (J. Abate and W. Whitt,
    Numerical inversion of probability generating functions, 1992). docs/explanation/scoring.md says how far that
    is from exact.

    Args:
        alpha: [candidates] first parameters, at least 1.
        beta: [candidates] second parameters, at least 1.
        asked: [asked] places of the candidates asked about.
        ranks: At least 1, at most the number of candidates.

    Returns:
        [asked, ranks].
    """
    pairs, kind = np.unique(np.stack([alpha, beta]), axis=1, return_inverse=True)
    kind = kind.reshape(-1)
    points, step = _grid(pairs[0], pairs[1])
    mass, above = _tabulated(pairs[0], pairs[1], points, step)
    # Where many are above, few can be only with a probability below exp(-18) (Chernoff's bound for the lower tail).
    kept = above[:, kind].sum(axis=1) <= ranks + 18.0 + np.sqrt(324.0 + 36.0 * ranks)
    mass, above = mass[kept], above[kept]
    wanted, place = np.unique(kind[asked], return_inverse=True)
    radius = _ALIASED ** (1.0 / ranks)
    values = np.empty((len(wanted), ranks // 2 + 1), np.complex128)
    for number in range(ranks // 2 + 1):
        turn = np.exp(2j * np.pi * number / ranks)
        # A half turn is real, and real products cost a third.
        factors = 1.0 + above * (radius * (turn.real if 2 * number in (0, ranks) else turn) - 1.0)
        factors[factors == 0] = np.finfo(np.float64).tiny
        others = np.prod(factors[:, kind], axis=1)[:, None] / factors[:, wanted]
        values[:, number] = (mass[:, wanted] * others).sum(axis=0)
    chances = np.fft.irfft(values.conj(), n=ranks, axis=1) / radius ** np.arange(ranks)
    return np.asarray(np.clip(chances, 0.0, 1.0)[place.reshape(-1)])


def _grid(alpha: Floats, beta: Floats) -> tuple[Floats, Floats]:
    """[2 cells + 1] ends and middles of the cells in logit(x), and [cells] their widths."""
    nodes = np.log(alpha / beta) + _NODES[:, None] * np.sqrt(1.0 / alpha + 1.0 / beta)
    found = np.unique(nodes)
    cells = min(max(_CELLS, _OF_EACH * len(alpha)), _MOST_CELLS)
    ends = np.interp(np.linspace(0.0, len(found) - 1.0, cells + 1), np.arange(len(found)), found)
    points = np.empty(2 * cells + 1)
    points[::2] = ends
    points[1::2] = (ends[1:] + ends[:-1]) / 2
    return points, np.diff(ends)


def _tabulated(alpha: Floats, beta: Floats, points: Floats, step: Floats) -> tuple[Floats, Floats]:
    """[points, distributions] the mass of each point, adding up to 1, and the probability of a draw above it."""
    mode, total = np.log(alpha / beta), alpha + beta

    def logarithm(t: Floats) -> Floats:
        return np.asarray(alpha * t - total * np.logaddexp(0.0, t))

    density = np.exp(logarithm(points[:, None]) - logarithm(mode))
    left, middle, right = density[:-2:2], density[1::2], density[2::2]
    width = step[:, None]
    half = np.maximum(width * (5 * left + 8 * middle - right) / 24, 0.0)
    whole = width * (left + 4 * middle + right) / 6
    below = np.zeros_like(density)
    below[2::2] = np.cumsum(whole, axis=0)
    below[1::2] = below[:-2:2] + np.minimum(half, whole)
    sums = below[-1]
    mass = np.zeros_like(density)
    mass[1::2] = 4 * width * middle / 6
    mass[:-2:2] += width * left / 6
    mass[2::2] += width * right / 6
    return mass / sums, np.clip(1.0 - below / sums, 0.0, 1.0)
