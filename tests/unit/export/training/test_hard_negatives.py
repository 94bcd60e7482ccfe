"""Hard negatives: near items, and how often they come."""

from __future__ import annotations

import numpy as np

from recserve_export.training.hard_negatives import nearest_items, neighbour_share


def test_they_are_the_nearest_others() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    vectors[7] = vectors[8] = vectors[9]  # the same texts
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = nearest_items(vectors, 3)
    assert found.shape == (50, 3)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -2.0)
    expected = np.sort(-cosines, axis=1)[:, :3]
    np.testing.assert_allclose(np.sort(-np.take_along_axis(cosines, found, axis=1), axis=1), expected, atol=1e-6)
    assert nearest_items(vectors[:2], 5).tolist() == [[1], [0]]


def test_the_share_of_a_neighbour_is_that_of_the_items_that_bring_it() -> None:
    nearest = np.array([[1, 2], [0, 2], [1, 0]])
    np.testing.assert_allclose(neighbour_share(nearest, np.array([0.5, 0.3, 0.2])), [0.5, 0.7, 0.8])
