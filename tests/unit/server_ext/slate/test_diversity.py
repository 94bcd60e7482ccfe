"""MMR over a batch against its definition, user by user and item by item."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from recserve_server_ext.slate.diversity import MarginalRelevance, best_of


def unit(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    vectors = rng.normal(size=shape)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)


def diversified(
    scores: NDArray[np.float64], vectors: NDArray[np.float32], k: int, diversify: NDArray[np.float64]
) -> NDArray[np.int64]:
    """[users, min(k, n)] candidates in the order of their choice; -1 where a user has no more."""
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


def worth(
    scores: NDArray[np.float64], vectors: NDArray[np.float32], chosen: list[int], diversify: float
) -> dict[int, float]:
    """The definition: lambda s - (1 - lambda) max cos, of all candidates that are left."""
    left = [i for i in range(len(scores)) if i not in chosen and scores[i] > -np.inf]
    if not chosen:
        return {i: float(scores[i]) for i in left}
    exact = vectors.astype(np.float64)
    return {i: (1 - diversify) * scores[i] - diversify * max(float(exact[i] @ exact[j]) for j in chosen) for i in left}


@given(
    seed=st.integers(0, 2**32 - 1),
    users=st.integers(1, 4),
    n=st.integers(1, 12),
    k=st.integers(1, 14),
    missing=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_every_pick_is_the_best_by_definition(seed: int, users: int, n: int, k: int, missing: float) -> None:
    rng = np.random.default_rng(seed)
    scores = -np.sort(-rng.uniform(-1, 1, (users, n)), axis=1)
    scores[rng.random((users, n)) < missing] = -np.inf
    vectors, diversify = unit(rng, users, n, 16), rng.choice([0.0, 0.3, 0.7, 1.0], users)
    picks = diversified(scores, vectors, k, diversify)
    assert picks.shape == (users, min(k, n))
    for user, row in enumerate(picks.tolist()):
        count = min(k, int(np.isfinite(scores[user]).sum()))
        assert row[count:] == [-1] * (len(row) - count)
        for place in range(count):
            values = worth(scores[user], vectors[user], row[:place], diversify[user])
            # float32 products of unit vectors: 1e-6.
            assert values[row[place]] >= max(values.values()) - 1e-6


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=10), st.sampled_from([0, 0.5, 1]))
def test_ties_go_to_the_first(candidates: list[tuple[int, int]], diversify: float) -> None:
    # Quarters and unit axes: every sum is exact, so ties are ties.
    scores = np.array([score / 4 for score, _ in candidates])
    vectors = np.eye(4, dtype=np.float32)[[axis for _, axis in candidates]]
    picks = diversified(scores[None], vectors[None], len(candidates), np.array([diversify]))[0].tolist()
    expected: list[int] = []
    for _ in candidates:
        values = worth(scores, vectors, expected, diversify)
        expected.append(max(values, key=lambda i: (values[i], -i)))
    assert picks == expected


def test_nothing_to_diversify_is_the_order_of_the_scores() -> None:
    rng = np.random.default_rng(0)
    scores = rng.choice([0.1, 0.2, 0.3], (3, 20))
    picks = diversified(scores, unit(rng, 3, 20, 8), 20, np.zeros(3))
    assert np.array_equal(picks, np.argsort(-scores, axis=1, kind="stable"))


@pytest.mark.parametrize(("diversify", "expected"), [(0.0, [0, 1, 2]), (0.5, [0, 2, 1]), (1.0, [0, 2, 1])])
def test_a_twin_comes_last(diversify: float, expected: list[int]) -> None:
    vectors = np.array([[[1, 0], [1, 0], [0, 1]]], np.float32)
    assert diversified(np.array([[0.9, 0.8, 0.5]]), vectors, 3, np.array([diversify])).tolist() == [expected]


def test_the_best_allowed() -> None:
    values = np.array([[3.0, 2.0, 2.0], [np.nan, 1.0, -np.inf], [1.0, 1.0, 1.0]])
    allowed = np.array([[False, True, True], [False, True, True], [False, False, False]])
    assert best_of(values, allowed).tolist() == [1, 1, -1]
