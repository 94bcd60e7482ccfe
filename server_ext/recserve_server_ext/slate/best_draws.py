"""The probability that a candidate's draw from its Beta distribution is the largest, the second largest, ... of all."""

from __future__ import annotations

from typing import Final

import numpy as np

from recserve_server_ext.interactions.columns import Floats, Ints

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
    Numerical inversion of probability generating functions, 1992). docs/users.md says how far that is from exact.

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
