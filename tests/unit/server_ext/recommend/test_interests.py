"""Interests of a history: how many there are, which behaviours belong to which, and how their lists become one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from recserve_server_ext.recommend.interests import interest_clusters, sainte_lague
from support.examples import examples

DIM = 8


def tastes(*which: int) -> NDArray[np.float32]:
    """Behaviours near one of the axes each."""
    rng = np.random.default_rng(3)
    vectors = np.eye(DIM, dtype=np.float32)[list(which)] + rng.normal(scale=0.05, size=(len(which), DIM))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def test_there_are_as_many_interests_as_tastes_and_the_heaviest_comes_first() -> None:
    histories = [
        (tastes(0, 0, 0), np.ones(3)),
        (tastes(0, 1, 1, 0, 1), np.ones(5)),
        (tastes(2, 0, 1, 2), np.array([1.0, 1.0, 5.0, 1.0])),
    ]
    one, two, three = interest_clusters(histories, 5)
    assert one.tolist() == [0, 0, 0]
    assert two.tolist() == [1, 0, 0, 1, 0]
    assert three.tolist() == [1, 2, 0, 1]


def test_at_most_so_many_and_none_without_a_weight() -> None:
    vectors, weights = tastes(0, 1, 2, 3), np.ones(4)
    assert interest_clusters([(vectors, weights)], 2)[0].max() == 1
    assert interest_clusters([(vectors, weights)], 1)[0].tolist() == [0] * 4
    assert interest_clusters([(vectors, -weights)], 4)[0].tolist() == [0] * 4


def test_what_pushes_away_belongs_to_the_nearest_interest() -> None:
    found = interest_clusters([(tastes(0, 0, 1, 1, 1), np.array([1.0, 1.0, 1.0, -0.5, 1.0]))], 5)[0]
    assert found[3] == found[2] == found[4] != found[0]


@examples(40)
@given(sizes=st.lists(st.integers(1, 150), min_size=1, max_size=4), most=st.integers(1, 8), seed=st.integers(0, 99))
def test_users_do_not_change_each_other(sizes: list[int], most: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    histories = []
    for size in sizes:
        vectors = rng.normal(size=(size, DIM)).astype(np.float32)
        histories.append((vectors / np.linalg.norm(vectors, axis=1, keepdims=True), rng.uniform(-0.2, 1.0, size)))
    together = interest_clusters(histories, most)
    for history, labels in zip(histories, together, strict=True):
        assert set(np.unique(labels)) <= set(range(most))
        masses = np.bincount(labels, np.maximum(history[1], 0.0))
        assert (np.diff(masses) <= 1e-9).all()
        assert labels.tolist() == interest_clusters([history], most)[0].tolist()


@given(shares=st.lists(st.floats(0.05, 1.0), min_size=1, max_size=5), length=st.integers(1, 40))
def test_every_first_part_is_shared_out_in_proportion(shares: list[float], length: int) -> None:
    shares = [share / sum(shares) for share in shares]
    lists = sainte_lague([100] * len(shares), shares)
    order = np.argsort(np.concatenate(lists), kind="stable")[:length]
    counts = np.bincount(order // 100, minlength=len(shares))
    # Sainte-Lague: no list has more than one item more or less than its share, besides rounding of many small lists.
    assert np.abs(counts - np.array(shares) * length).max() <= 1.0 + 0.5 * (len(shares) - 1)


def test_turns_of_two_thirds_and_one_third() -> None:
    first, second = sainte_lague([4, 2], [2 / 3, 1 / 3])
    assert first == pytest.approx([0.75, 2.25, 3.75, 5.25])
    assert second == pytest.approx([1.5, 4.5])
