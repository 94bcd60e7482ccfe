"""Statistics of proportions, for reports of outcomes; all of it from the standard library and NumPy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Confidence of every interval, as a part of 1.
CONFIDENCE: Final = 0.95
#: A two-sided test below this is called significant.
ALPHA: Final = 0.05
#: The power that the least detectable difference is stated for.
POWER: Final = 0.8
_NORMAL: Final = NormalDist()
_HALVINGS: Final = 60


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


class Difference(NamedTuple):
    """A difference of two rates with its two-sided test; not a number where nothing can be tested.

    Attributes:
        value: Second minus first.
        interval: Confidence interval of the difference.
        z: Statistic, standard normal where there is no difference.
        p: Probability of one as far from 0.
    """

    value: float
    interval: Interval
    z: float
    p: float


def wilson(successes: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927); (0, 1) where there are no trials."""
    if trials == 0:
        return Interval(0.0, 1.0)
    z = _NORMAL.inv_cdf(0.5 + confidence / 2)
    rate, share = successes / trials, z * z / trials
    centre = rate + share / 2
    half = z * math.sqrt(rate * (1 - rate) / trials + share / trials / 4)
    low, high = (centre - half) / (1 + share), (centre + half) / (1 + share)
    # Exactly, where rounding would leave something on the wrong side.
    return Interval(0.0 if successes == 0 else low, 1.0 if successes == trials else high)


def two_proportions(first: tuple[int, int], second: tuple[int, int]) -> Difference:
    """The two-proportion z-test with pooled variance (Fleiss, Levin & Paik 2003, 3.1), without correction.

    The interval of the difference is Newcombe's, of both Wilson intervals (Newcombe 1998, method 10).

    Args:
        first: Successes and trials.
        second: The same.
    """
    (a, n), (b, m) = first, second
    if not n or not m:
        return _nothing()
    p, q = a / n, b / m
    low, high = wilson(a, n), wilson(b, m)
    interval = Interval(q - p - math.hypot(q - high.low, low.high - p), q - p + math.hypot(high.high - q, p - low.low))
    pooled = (a + b) / (n + m)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    return _tested(q - p, error, interval)


def ratio_difference(first: NDArray[np.float64], second: NDArray[np.float64]) -> Difference:
    """Test of the difference of two rates whose trials come in clusters, such as impressions by user.

    A rate is sum(successes) / sum(trials); its variance is by the delta method over the clusters (Deng, Knoblich & Lu
    2018), so clusters may be of any size and correlated within.

    Args:
        first: [clusters, 2]: successes and trials of each.
        second: The same.
    """
    (rate, variance), (other, more) = _ratio(first), _ratio(second)
    error = math.sqrt(variance + more)
    half = _NORMAL.inv_cdf(0.5 + CONFIDENCE / 2) * error
    return _tested(other - rate, error, Interval(other - rate - half, other - rate + half))


def power(rate: float, lift: float, first: int, second: int) -> float:
    """Power of `two_proportions` against a true rate of `rate + lift` (Fleiss, Levin & Paik 2003, 4.2).

    Args:
        rate: Of the first.
        lift: Added to it in the second.
        first: Trials of the first.
        second: Trials of the second.
    """
    other = rate + lift
    if not first or not second or not 0 <= other <= 1:
        return math.nan
    pooled = (rate * first + other * second) / (first + second)
    expected = math.sqrt(pooled * (1 - pooled) * (1 / first + 1 / second))
    true = math.sqrt(rate * (1 - rate) / first + other * (1 - other) / second)
    if true == 0:
        return math.nan
    critical = _NORMAL.inv_cdf(1 - ALPHA / 2) * expected
    return _NORMAL.cdf((abs(lift) - critical) / true) + _NORMAL.cdf((-abs(lift) - critical) / true)


def detectable(rate: float, first: int, second: int) -> float:
    """The least lift above `rate` found with a power of 0.8 by `two_proportions`; not a number where there is none."""
    low, high = 0.0, 1.0 - rate
    if not first or not second or not high or not power(rate, high, first, second) >= POWER:
        return math.nan
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if power(rate, middle, first, second) >= POWER:
            high = middle
        else:
            low = middle
    return high


def chi_square(observed: Sequence[int], weights: Sequence[float]) -> float:
    """p of Pearson's chi-square test that counts are split by these weights; 1 where there are no counts."""
    counts, parts = np.asarray(observed, np.float64), np.asarray(weights, np.float64)
    expected = parts / parts.sum() * counts.sum()
    if counts.sum() == 0:
        return 1.0
    return chi_square_tail(float(((counts - expected) ** 2 / expected).sum()), len(counts) - 1)


def chi_square_tail(statistic: float, freedom: int) -> float:
    """P(X >= statistic) of the chi-square distribution, by the recurrence over its degrees of freedom.

    Q(k + 2, x) = Q(k, x) + (x/2)^(k/2) exp(-x/2) / Gamma(k/2 + 1), from Q(1, x) = erfc(sqrt(x/2)) and
    Q(2, x) = exp(-x/2) (Abramowitz & Stegun 26.4.8).
    """
    half = statistic / 2
    if half <= 0:
        return 1.0
    tail = math.erfc(math.sqrt(half)) if freedom % 2 else math.exp(-half)
    for k in range(1 if freedom % 2 else 2, freedom, 2):
        tail += math.exp(k / 2 * math.log(half) - half - math.lgamma(k / 2 + 1))
    return min(tail, 1.0)


def _ratio(clusters: NDArray[np.float64]) -> tuple[float, float]:
    """The rate over all clusters, and its variance."""
    count = len(clusters)
    if count < 2 or clusters[:, 1].sum() == 0:
        return math.nan, math.nan
    rate = float(clusters[:, 0].sum() / clusters[:, 1].sum())
    residual = clusters[:, 0] - rate * clusters[:, 1]
    return rate, float(residual.var(ddof=1) / count / clusters[:, 1].mean() ** 2)


def _tested(difference: float, error: float, interval: Interval) -> Difference:
    if not error > 0:
        return Difference(difference, interval, math.nan, math.nan)
    z = difference / error
    return Difference(difference, interval, z, math.erfc(abs(z) / math.sqrt(2)))


def _nothing() -> Difference:
    return Difference(math.nan, Interval(math.nan, math.nan), math.nan, math.nan)
