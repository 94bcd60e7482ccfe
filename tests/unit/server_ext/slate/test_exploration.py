"""Exploration: the propensities are the probabilities, its share is bounded, and a seed decides all of it."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recserve_client.contract import Explore
from recserve_server_ext.slate.exploration import explored


def test_propensities_are_the_frequencies() -> None:
    rounds, fixed = 4000, np.zeros(15, np.bool_)
    shown: Counter[tuple[int, int]] = Counter()
    told: dict[tuple[int, int], float] = {}
    for seed in range(rounds):
        found = explored(Explore(epsilon=0.4, at_most=0.3, pool=5, seed=seed), 15, 10, fixed)
        for place, (pick, propensity) in enumerate(zip(found.picks.tolist(), found.propensity.tolist(), strict=True)):
            shown[place, pick] += 1
            told[place, pick] = propensity
    # 10 sure or usual places, and 5 candidates in each of 3 places.
    assert len(told) == 10 + 3 * 5
    for pair, count in shown.items():
        error = np.sqrt(told[pair] * (1 - told[pair]) / rounds)
        assert count / rounds == pytest.approx(told[pair], abs=4.5 * error + 1e-9)


def test_propensities_of_thompson_sampling_are_the_frequencies_and_add_up() -> None:
    rounds, fixed = 1500, np.zeros(15, np.bool_)
    beliefs = np.concatenate([np.ones(10), [1.0, 2.0, 1.0, 3.0, 1.0]]), np.concatenate([np.ones(10), np.full(5, 20.0)])
    shown: Counter[tuple[int, int]] = Counter()
    told: dict[tuple[int, int], float] = {}
    for seed in range(rounds):
        explore = Explore(kind="thompson", epsilon=0.6, at_most=0.3, seed=seed)
        found = explored(explore, 15, 10, fixed, beliefs)
        for place, (pick, propensity) in enumerate(zip(found.picks.tolist(), found.propensity.tolist(), strict=True)):
            shown[place, pick] += 1
            assert told.setdefault((place, pick), propensity) == pytest.approx(propensity, abs=1e-5)
    assert len(told) == 10 + 3 * 5
    assert sum(told.values()) == pytest.approx(10, abs=1e-3)
    for pair, count in shown.items():
        error = np.sqrt(told[pair] * (1 - told[pair]) / rounds)
        assert count / rounds == pytest.approx(told[pair], abs=4.5 * error + 1e-9)
    assert told[7, 13] > told[7, 11] > told[7, 10] == pytest.approx(told[7, 12], abs=1e-6)


def test_thompson_sampling_explores_a_bounded_number_of_places() -> None:
    explore = Explore(kind="thompson", epsilon=1.0, at_most=0.5, seed=1)
    found = explored(explore, 300, 200, np.zeros(300, np.bool_), (np.ones(300), np.full(300, 20.0)))
    assert np.flatnonzero(found.drawn).tolist() == list(range(150, 200))
    assert found.propensity[150:] == pytest.approx(np.full(50, 1 / 100), abs=1e-5)


@given(
    kind=st.sampled_from(["epsilon", "thompson"]),
    epsilon=st.floats(0, 1), at_most=st.floats(0, 0.5), k=st.integers(1, 30), length=st.integers(0, 60),
    seed=st.integers(0, 1000), data=st.data(),
)  # fmt: skip
def test_the_share_is_bounded_and_what_is_fixed_stays(
    kind: Literal["epsilon", "thompson"],
    epsilon: float,
    at_most: float,
    k: int,
    length: int,
    seed: int,
    data: st.DataObject,
) -> None:
    fixed = np.array(data.draw(st.lists(st.booleans(), min_size=length, max_size=length)), np.bool_)
    explore = Explore(kind=kind, epsilon=epsilon, at_most=at_most, seed=seed)
    beliefs = 1.0 + np.arange(length) % 3, np.full(length, 20.0)
    found = explored(explore, length, k, fixed, beliefs)
    assert len(found.picks) == min(k, length)
    assert len(set(found.picks.tolist())) == len(found.picks)
    assert found.drawn.sum() <= at_most * k
    own = np.arange(len(found.picks))
    assert (found.picks[~found.drawn] == own[~found.drawn]).all()
    assert not fixed[found.picks[found.drawn]].any()
    assert not found.drawn[fixed[own]].any()
    assert (found.propensity[fixed[own]] == 1.0).all()
    assert ((found.propensity >= 0) & (found.propensity <= 1)).all()
    again = explored(explore, length, k, fixed, beliefs)
    assert again.picks.tolist() == found.picks.tolist()
