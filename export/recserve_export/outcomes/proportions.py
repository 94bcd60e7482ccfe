"""Statistics of proportions for reports of outcomes, by statsmodels and scipy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats
from statsmodels.stats.proportion import (
    confint_proportions_2indep,
    power_proportions_2indep,
    proportion_confint,
    proportions_ztest,
)

#: A two-sided test below this is called significant; every interval has a confidence of 1 less this.
ALPHA: Final = 0.05
#: The power that the least detectable difference is stated for.
POWER: Final = 0.8
#: Where the search for the least detectable difference begins: at 0 there is nothing to test.
_LEAST_LIFT: Final = 1e-12


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


class Difference(NamedTuple):
    """A difference of two rates with its two-sided test; nan where nothing can be tested.

    Attributes:
        value: Second minus first.
        interval: Confidence interval of the difference.
        z: Statistic, standard normal where there is no difference.
        p: Probability of a statistic as far from 0.
    """

    value: float
    interval: Interval
    z: float
    p: float


def wilson(successes: int, trials: int) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927); (0, 1) where there are no trials."""
    if trials == 0:
        return Interval(0.0, 1.0)
    low, high = proportion_confint(successes, trials, alpha=ALPHA, method="wilson")
    # Exactly, where rounding would leave something on the wrong side.
    return Interval(0.0 if successes == 0 else low, 1.0 if successes == trials else high)


def two_proportions(first: tuple[int, int], second: tuple[int, int]) -> Difference:
    """The two-proportion z-test with pooled variance (Fleiss, Levin & Paik 2003, 3.1), without correction.

    The interval of the difference is Newcombe's, of both Wilson intervals (Newcombe 1998, method 10).

    Args:
        first: Successes and trials of the first.
        second: Successes and trials of the second.
    """
    (a, n), (b, m) = first, second
    if not n or not m:
        return Difference(math.nan, Interval(math.nan, math.nan), math.nan, math.nan)
    low, high = confint_proportions_2indep(b, m, a, n, method="newcomb", alpha=ALPHA)
    z, p = (math.nan, math.nan) if a + b in (0, n + m) else proportions_ztest([b, a], [m, n])
    return Difference(b / m - a / n, Interval(float(low), float(high)), float(z), float(p))


def ratio_difference(first: NDArray[np.float64], second: NDArray[np.float64]) -> Difference:
    """Test of the difference of two rates whose trials come in clusters, such as impressions by user.

    A rate is sum(successes) / sum(trials); its variance is by the delta method over the clusters (Deng, Knoblich & Lu
    2018), so clusters may be of any size and correlated within.

    Args:
        first: [clusters, 2] successes and trials of each cluster of the first.
        second: [clusters, 2] successes and trials of each cluster of the second.
    """
    (rate, variance), (other, more) = _ratio(first), _ratio(second)
    difference, error = other - rate, math.sqrt(variance + more)
    half = float(stats.norm.isf(ALPHA / 2)) * error
    z = difference / error if error > 0 else math.nan
    return Difference(difference, Interval(difference - half, difference + half), z, float(2 * stats.norm.sf(abs(z))))


def power(rate: float, lift: float, first: int, second: int) -> float:
    """Power of `two_proportions` where the true rates are `rate` and `rate + lift` (Fleiss, Levin & Paik 2003, 4.2).

    Args:
        rate: Rate of the first.
        lift: Rate of the second minus that of the first.
        first: Trials of the first.
        second: Trials of the second.
    """
    if not first or not second or not 0 <= rate + lift <= 1 or {rate, rate + lift} <= {0.0, 1.0}:
        return math.nan
    return float(power_proportions_2indep(lift, rate, second, first / second, ALPHA, return_results=False))


def detectable(rate: float, first: int, second: int) -> float:
    """The least lift above `rate` found with a power of 0.8 by `two_proportions`; nan where there is none."""
    if not first or not second or not power(rate, 1.0 - rate, first, second) >= POWER:
        return math.nan
    return float(optimize.brentq(lambda lift: power(rate, lift, first, second) - POWER, _LEAST_LIFT, 1.0 - rate))


def chi_square(observed: Sequence[int], weights: Sequence[float]) -> float:
    """p of Pearson's chi-square test that counts are split by these weights; 1 where there are no counts."""
    if sum(observed) == 0:
        return 1.0
    expected = np.asarray(weights, np.float64) / sum(weights) * sum(observed)
    return float(stats.chisquare(observed, expected).pvalue)


def _ratio(clusters: NDArray[np.float64]) -> tuple[float, float]:
    """The rate over all clusters, and its variance."""
    count = len(clusters)
    if count < 2 or clusters[:, 1].sum() == 0:
        return math.nan, math.nan
    rate = float(clusters[:, 0].sum() / clusters[:, 1].sum())
    residual = clusters[:, 0] - rate * clusters[:, 1]
    return rate, float(residual.var(ddof=1) / count / clusters[:, 1].mean() ** 2)
