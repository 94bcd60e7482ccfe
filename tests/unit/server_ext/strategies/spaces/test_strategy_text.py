"""Pooling and contributions of the strategy `text` against a plain NumPy reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from recserve_server_ext.catalogue.view import view_over
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.strategies.base import Candidates, Profile, Query
from recserve_server_ext.strategies.spaces.text import CANCELLED, Text, weighted_means
from support.data import data_over, spec_of


def unit(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    vectors = rng.normal(size=shape)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)


@given(
    seed=st.integers(0, 2**32 - 1),
    users=st.integers(1, 5),
    behaviours=st.integers(1, 30),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_equal_to_the_reference(seed: int, users: int, behaviours: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    vectors, items = unit(rng, users, behaviours, 24), unit(rng, users, 4, 24)
    weights = rng.normal(size=(users, behaviours)) * scale
    result = weighted_means(vectors, weights)
    sums = np.einsum("ub,ubd->ud", weights, vectors.astype(np.float64))
    norms = np.linalg.norm(sums, axis=1)
    live = norms > 1e-3 * np.abs(weights).sum(axis=1)
    expected = sums / norms[:, None]
    # float32 sums of 30 terms of which much may cancel: 1e-3 of the mass left bounds the error by 1e-4.
    assert np.abs(result.vectors - expected)[live].max(initial=0) < 1e-4
    assert np.allclose(result.norms[live], norms[live], rtol=1e-3)
    exact = weights[:, None, :] * np.einsum("ubd,uid->uib", vectors.astype(np.float64), items) / norms[:, None, None]
    parts, scores = explained(vectors, weights, items)
    for user in np.flatnonzero(live).tolist():
        assert np.allclose(parts[user], exact[user], rtol=1e-3, atol=1e-4)
        assert np.abs(scores[user] - items[user] @ expected[user]).max() < 1e-3


def explained(
    vectors: NDArray[np.float32], weights: NDArray[np.float64], items: NDArray[np.float32]
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """The contributions to the scores of each user's items, and these, as the strategy gives them."""
    users, behaviours, dim = vectors.shape
    catalogue = np.concatenate([vectors.reshape(-1, dim), items.reshape(-1, dim)])
    data = data_over(view_over(catalogue, ExactEngine(catalogue)))
    rows = np.arange(users * behaviours).reshape(users, behaviours)
    queries = [
        Query(Profile(of, own, {}, {}, [], count=behaviours), data, spec_of(4))
        for of, own in zip(weights, rows, strict=True)
    ]
    wanted = users * behaviours + np.arange(users * items.shape[1]).reshape(users, -1)
    strategy = Text("text")
    found = strategy.explain(queries, [Candidates(of) for of in wanted])
    contributions = [of.contributions for of in found if of.contributions is not None]
    assert len(contributions) == users
    return contributions, [of.parts["text"] for of in found]


def is_cancelled(vectors: NDArray[np.float32], weights: list[float]) -> bool:
    means = weighted_means(vectors, np.array([weights]))
    return bool(means.norms[0] <= CANCELLED * means.mass[0])


@pytest.mark.parametrize("weight", [1.0, 1e-6, 1e6])
def test_opposite_behaviours_cancel(weight: float) -> None:
    vector = unit(np.random.default_rng(1), 1, 1, 16)
    both = np.concatenate([vector, vector], axis=1)
    assert is_cancelled(both, [weight, -weight])
    assert not is_cancelled(both, [weight, -weight / 2])


def test_a_weight_of_zero_changes_nothing() -> None:
    rng = np.random.default_rng(2)
    vectors = unit(rng, 1, 3, 16)
    with_zero = weighted_means(vectors, np.array([[1.0, 2.0, 0.0]]))
    without = weighted_means(vectors[:, :2], np.array([[1.0, 2.0]]))
    assert np.allclose(with_zero.vectors, without.vectors, atol=1e-7)
