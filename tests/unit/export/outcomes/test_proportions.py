"""Statistics of proportions, against published examples, other tests of scipy, and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from recserve_export.outcomes.proportions import (
    ALPHA,
    POWER,
    chi_square,
    detectable,
    power,
    ratio_difference,
    two_proportions,
    wilson,
)

COUNTS = st.integers(1, 5000).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials)))


@given(COUNTS)
def test_wilsons_interval_is_scipys(counts: tuple[int, int]) -> None:
    expected = stats.binomtest(*counts).proportion_ci(method="wilson")
    assert wilson(*counts) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilsons_interval_of_nothing_is_everything() -> None:
    assert wilson(0, 0) == (0, 1)


@given(first=COUNTS, second=COUNTS)
def test_the_z_test_is_the_chi_square_test_of_the_table(first: tuple[int, int], second: tuple[int, int]) -> None:
    (a, n), (b, m) = first, second
    found = two_proportions(first, second)
    if a + b in (0, n + m):
        assert math.isnan(found.p)
        return
    expected = stats.chi2_contingency([[a, n - a], [b, m - b]], correction=False)
    assert found.z**2 == pytest.approx(expected.statistic, rel=1e-9, abs=1e-12)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-300)
    assert found.interval.low <= found.value <= found.interval.high


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    # Newcombe 1998, table II, method 10.
    [((48, 80), (56, 70), 0.0524, 0.3339), ((0, 10), (10, 10), 0.6075, 1.0)],
)
def test_the_interval_of_a_difference_is_newcombes(
    first: tuple[int, int], second: tuple[int, int], low: float, high: float
) -> None:
    assert two_proportions(first, second).interval == pytest.approx((low, high), abs=1e-4)


def test_a_split_that_is_not_as_configured_is_found() -> None:
    # Mendel's peas: chi-square 0.470 with 3 degrees of freedom (Fisher 1936).
    assert chi_square([315, 108, 101, 32], [9, 3, 3, 1]) == pytest.approx(0.9254, abs=1e-4)
    assert chi_square([5000, 5400], [1, 1]) < 0.001
    assert chi_square([9000, 1000], [9, 1]) == 1
    assert chi_square([0, 0], [1, 1]) == 1


def test_power_is_what_simulation_finds() -> None:
    rng = np.random.default_rng(3)
    rate, lift, n, m, rounds = 0.2, 0.05, 900, 700, 20_000
    a, b = rng.binomial(n, rate, rounds), rng.binomial(m, rate + lift, rounds)
    pooled = (a + b) / (n + m)
    z = (b / m - a / n) / np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    # Two standard errors of the simulation, and the normal approximation.
    assert power(rate, lift, n, m) == pytest.approx((abs(z) > stats.norm.isf(ALPHA / 2)).mean(), abs=0.012)


@given(rate=st.floats(0.01, 0.6), n=st.integers(200, 10**6), m=st.integers(200, 10**6))
def test_what_is_detectable_has_the_power_it_is_named_for(rate: float, n: int, m: int) -> None:
    lift = detectable(rate, n, m)
    assert power(rate, lift, n, m) == pytest.approx(POWER, abs=1e-6)
    assert power(rate, lift / 2, n, m) < POWER


def test_where_nothing_can_be_detected_there_is_no_number() -> None:
    assert math.isnan(detectable(0.5, 0, 10))
    assert math.isnan(detectable(1.0, 100, 100))
    assert math.isnan(power(0.5, 0.6, 10, 10))


def test_clusters_of_one_trial_are_the_plain_test() -> None:
    first = np.column_stack([[1] * 30 + [0] * 70, [1] * 100]).astype(float)
    second = np.column_stack([[1] * 60 + [0] * 90, [1] * 150]).astype(float)
    found = ratio_difference(first, second)
    error = math.sqrt(0.3 * 0.7 / 99 + 0.4 * 0.6 / 149)
    assert (found.value, found.z) == pytest.approx((0.1, 0.1 / error))
    assert found.interval == pytest.approx((0.1 - 1.959964 * error, 0.1 + 1.959964 * error), abs=1e-6)


def test_correlated_impressions_do_not_make_a_difference() -> None:
    """Users who click all or nothing: the test over users keeps its level, one over impressions would not."""
    rng = np.random.default_rng(4)
    found, naive = [], []
    for _ in range(400):
        sides = []
        for _ in range(2):
            trials = rng.integers(1, 40, 200)
            sides.append(np.column_stack([trials * (rng.random(200) < 0.3), trials]).astype(float))
        found.append(ratio_difference(*sides).p)
        naive.append(two_proportions(*[(int(side[:, 0].sum()), int(side[:, 1].sum())) for side in sides]).p)
    assert 0.02 < np.mean(np.array(found) < ALPHA) < 0.09
    assert np.mean(np.array(naive) < ALPHA) > 0.4


def test_too_few_clusters_give_no_number() -> None:
    one = np.array([[1.0, 2.0]])
    assert math.isnan(ratio_difference(one, one).p)
    assert math.isnan(two_proportions((0, 0), (1, 2)).p)
