"""Probabilities of the largest draws: against a plain sum over many cells, and against draws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from recserve_server_ext.common.arrays import Floats
from recserve_server_ext.slate.exploration import rank_chances
from support.examples import examples

#: What docs/explanation/scoring.md allows, and the cells of the reference.
_ERROR = 2e-4


def plain(alpha: Floats, beta: Floats, ranks: int) -> Floats:
    """[candidates, ranks] one candidate and one cell after the other, with the probability of r draws above it."""
    laws = [stats.beta(a, b) for a, b in zip(alpha, beta, strict=True)]
    cells = np.unique([law.ppf(np.linspace(0, 1, 250)) for law in laws])
    middle = (cells[1:] + cells[:-1]) / 2
    above = [law.sf(middle) for law in laws]
    found = np.zeros((len(laws), ranks))
    for one, law in enumerate(laws):
        counts = np.zeros((len(laws), len(middle)))
        counts[0] = 1.0
        for other in range(len(laws)):
            if other != one:
                moved = counts * above[other]
                counts = counts - moved
                counts[1:] += moved[:-1]
        found[one] = (counts[:ranks] * np.diff(law.cdf(cells))).sum(axis=1)
    return found


@examples(25)
@given(data=st.data(), n=st.integers(1, 7), prior=st.floats(1, 50))
def test_it_is_what_a_plain_sum_gives(data: st.DataObject, n: int, prior: float) -> None:
    shown = np.array(data.draw(st.lists(st.integers(0, 5000), min_size=n, max_size=n)))
    rates = np.array(data.draw(st.lists(st.floats(0, 1), min_size=n, max_size=n)))
    clicks = np.floor(shown * rates)
    alpha, beta = 1.0 + clicks, prior + shown - clicks
    ranks = data.draw(st.integers(1, n))
    found = rank_chances(alpha, beta, np.arange(n), ranks)
    # The cells of the reference are coarser than those of what it checks.
    assert found == pytest.approx(plain(alpha, beta, ranks), abs=4e-3)
    assert found.sum(axis=0) == pytest.approx(np.ones(ranks), abs=_ERROR)
    some = np.array([n - 1, 0])
    assert (rank_chances(alpha, beta, some, ranks) == found[some]).all()


@pytest.mark.parametrize(("n", "most", "ranks"), [(50, 200, 2), (50, 100_000, 10), (500, 20_000, 50)])
def test_in_a_long_list_each_rank_is_given_once(n: int, most: int, ranks: int) -> None:
    rng = np.random.default_rng(n + most)
    shown = np.floor(rng.random(n) ** 4 * most)
    clicks = rng.binomial(shown.astype(np.int64), rng.beta(2, 40, n))
    alpha, beta = 1.0 + clicks, 20.0 + shown - clicks
    found = rank_chances(alpha, beta, np.arange(n), ranks)
    assert found.sum(axis=0) == pytest.approx(np.ones(ranks), abs=_ERROR)
    rounds = 4000
    order = np.argsort(-rng.beta(alpha, beta, size=(rounds, n)), axis=1)[:, :ranks]
    for rank in (0, ranks - 1):
        part = np.bincount(order[:, rank], minlength=n) / rounds
        error = np.sqrt(found[:, rank] * (1 - found[:, rank]) / rounds)
        assert (np.abs(part - found[:, rank]) <= 5 * error + 2e-3).all()


def test_what_is_alike_has_the_same_chance_and_clicks_raise_it() -> None:
    n = 40
    even = rank_chances(np.ones(n), np.full(n, 20.0), np.arange(n), 3)
    assert even == pytest.approx(np.full((n, 3), 1 / n), abs=1e-5)
    clicks = np.arange(6) * 2.0
    best = rank_chances(1 + clicks, 120 - clicks, np.arange(6), 1)[:, 0]
    assert (np.diff(best) > 0).all()
