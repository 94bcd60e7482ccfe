"""Pooling and contributions against a plain NumPy reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from recserve_server_ext.strategies.text import contributions, user_vectors


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
    result = user_vectors(vectors, weights)
    sums = np.einsum("ub,ubd->ud", weights, vectors.astype(np.float64))
    norms = np.linalg.norm(sums, axis=1)
    live = norms > 1e-3 * np.abs(weights).sum(axis=1)
    expected = sums / norms[:, None]
    # float32 sums of 30 terms of which much may cancel: 1e-3 of the mass left bounds the error by 1e-4.
    assert np.abs(result.vectors - expected)[live].max(initial=0) < 1e-4
    assert np.allclose(result.norms[live], norms[live], rtol=1e-3)
    parts = contributions(vectors, weights, result.norms, items)
    scores = np.einsum("ud,uid->ui", expected, items.astype(np.float64))
    assert np.abs(parts.sum(axis=2) - scores)[live].max(initial=0) < 1e-3
    exact = weights[:, None, :] * np.einsum("ubd,uid->uib", vectors.astype(np.float64), items) / norms[:, None, None]
    assert np.allclose(parts[live], exact[live], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("weight", [1.0, 1e-6, 1e6])
def test_opposite_behaviours_cancel(weight: float) -> None:
    vector = unit(np.random.default_rng(1), 1, 1, 16)
    both = np.concatenate([vector, vector], axis=1)
    result = user_vectors(both, np.array([[weight, -weight]]))
    assert result.cancelled.tolist() == [True]
    assert user_vectors(both, np.array([[weight, -weight / 2]])).cancelled.tolist() == [False]


def test_a_weight_of_zero_changes_nothing() -> None:
    rng = np.random.default_rng(2)
    vectors = unit(rng, 1, 3, 16)
    with_zero = user_vectors(vectors, np.array([[1.0, 2.0, 0.0]]))
    without = user_vectors(vectors[:, :2], np.array([[1.0, 2.0]]))
    assert np.allclose(with_zero.vectors, without.vectors, atol=1e-7)
