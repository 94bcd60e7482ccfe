"""Users for measuring, and the choice of parameters from a curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import pytest
from numpy.typing import NDArray

from recserve_export.index.engine_choice import next_ef
from recserve_export.index.recall import Choice, CurvePoint, choose, measure, reaches, sample_users
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.index.engines.engine import Engine
from recserve_server_ext.index.engines.exact import ExactEngine


def point(m: int, ef: int, interests: float, random: float, cost: float, *, margin: float = 0.0) -> CurvePoint:
    """A made-up point; the lower bounds are `margin` below the means."""
    recall = {"interests": interests, "random": random}
    return CurvePoint(
        engine="hnsw",
        parameters={"M": m, "ef_construction": 200, "ef": ef},
        items=1000,
        recall=recall,
        recall_low={kind: value - margin for kind, value in recall.items()},
        users_per_s=1e6 / cost,
        cpu_us_per_user=cost,
    )


CURVE = [
    point(16, 64, 0.90, 0.75, 50),
    point(16, 512, 0.985, 0.975, 400),
    point(16, 1024, 0.995, 0.99, 800),
    point(32, 256, 0.99, 0.97, 300),
    point(32, 512, 0.995, 0.985, 500),
    point(32, 1024, 0.999, 0.999, 900),
]


def test_choice_is_the_cheapest_that_reaches_the_target_for_both_kinds() -> None:
    assert choose(CURVE, 0.98) == Choice(4, True)
    assert choose(CURVE, 0.96) == Choice(3, True)
    assert choose(CURVE, 0.5) == Choice(0, True)
    assert choose(CURVE, 0.998) == Choice(5, True)


def test_choice_without_a_point_that_reaches_is_the_nearest_for_the_worse_kind() -> None:
    assert choose(CURVE[:4], 0.9999) == Choice(2, False)
    tied = [point(16, 512, 0.9, 0.9, 400), point(32, 512, 0.9, 0.9, 300)]
    assert choose(tied, 0.95) == Choice(1, False)


def test_choice_goes_by_the_lower_bound() -> None:
    assert reaches(point(16, 64, 0.985, 0.985, 1, margin=0.004), 0.98)
    assert not reaches(point(16, 64, 0.985, 0.985, 1, margin=0.006), 0.98)


def test_the_mean_has_a_reserve_of_a_quarter_of_what_the_target_leaves() -> None:
    assert not reaches(point(16, 64, 0.999, 0.984, 1), 0.98)
    assert reaches(point(16, 64, 0.926, 0.925, 1), 0.9)
    assert reaches(point(16, 64, 1.0, 1.0, 1), 1.0)


def test_next_ef_halves_the_gap_around_the_target() -> None:
    below, above = point(16, 256, 0.99, 0.95, 1), point(16, 512, 0.99, 0.99, 2)
    assert next_ef([above, below], 0.98) == 384
    assert next_ef([below, point(16, 384, 0.99, 0.97, 2), above], 0.98) == 448
    assert next_ef([point(16, 480, 0.9, 0.9, 2), above], 0.98) is None  # within an eighth
    assert next_ef([below], 0.98) is None
    assert next_ef([above], 0.98) is None
    assert next_ef([], 0.98) is None


def clustered(count: int, *, seed: int, dim: int = 16) -> Vectors:
    """Unit vectors about 20 centres, [count, dim]."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(20, dim))
    vectors = centres[random.integers(20, size=count)] + 0.5 * random.normal(size=(count, dim))
    unit: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def test_users_are_seeded_unit_and_of_two_kinds() -> None:
    vectors = clustered(800, seed=1)
    users = sample_users(vectors, count=30, seed=5)
    again, other = sample_users(vectors, count=30, seed=5), sample_users(vectors, count=30, seed=6)
    assert list(users.vectors) == ["interests", "random"]
    assert users.k == 10
    for kind, found in users.vectors.items():
        assert found.shape == (30, 16)
        assert found.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
        np.testing.assert_array_equal(found, again.vectors[kind])
        assert not np.array_equal(found, other.vectors[kind])
        tenth = np.sort(found @ vectors.T, axis=1)[:, -10]
        np.testing.assert_allclose(users.last[kind], tenth, atol=1e-6)


def test_interests_are_six_or_seven_near_items_of_three() -> None:
    # Items in 16 tight clusters about the axes, 60 each: the 50 nearest of an item are of its own cluster.
    noise = 1e-4 * np.random.default_rng(9).normal(size=(960, 16))
    vectors = (np.repeat(np.eye(16), 60, axis=0) + noise).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    users = sample_users(vectors, count=50, seed=1)

    def items_of_clusters(user: Vectors) -> list[int]:
        """How many of the 20 items were taken from each cluster, which the user's coordinates are proportional to."""
        return sorted((n for n in np.rint(20 * user / user.sum()).astype(int).tolist() if n), reverse=True)

    # Two of the three random items may be of one cluster.
    assert all(items_of_clusters(user) in ([7, 7, 6], [14, 6], [13, 7], [20]) for user in users.vectors["interests"])
    assert all(sum(items_of_clusters(user)) == 20 for user in users.vectors["random"])
    assert all(len(items_of_clusters(user)) > 6 for user in users.vectors["random"])


@pytest.mark.parametrize("items", [1, 2, 7])
def test_fewer_items_than_ten(items: int) -> None:
    vectors = clustered(items, seed=2)
    users = sample_users(vectors, count=5, seed=0)
    assert users.k == items
    assert measure(ExactEngine(vectors), users).recall == {"interests": 1.0, "random": 1.0}


class Half(Engine):
    """Finds the first half of the exact answer, then items that are far away."""

    name = "half"

    def __init__(self, exact: ExactEngine) -> None:
        self.exact = exact
        self.parameters = {"ef": 5}

    def with_parameters(self, parameters: Mapping[str, int]) -> Self:
        raise AssertionError("not used")

    def search(
        self, queries: Vectors, k: int, *, ef: int | None = None, banned: Sequence[NDArray[np.int64]] = ()
    ) -> tuple[NDArray[np.int64], Vectors]:
        rows, scores = self.exact.search(queries, k)
        scores[:, k // 2 :] = -1
        return rows, scores

    def save(self, folder: Path) -> None:
        raise AssertionError("not used")


def test_recall_counts_what_was_found() -> None:
    vectors = clustered(500, seed=3)
    exact = ExactEngine(vectors)
    users = sample_users(vectors, count=20, seed=0)
    full = measure(exact, users)
    assert full.recall == full.recall_low == {"interests": 1.0, "random": 1.0}
    half = measure(Half(exact), users)
    assert half.recall == {"interests": 0.5, "random": 0.5}
    assert (half.engine, half.parameters) == ("half", {"ef": 5})
    assert half.users_per_s > 0
    assert half.cpu_us_per_user > 0


def test_an_item_that_ties_with_the_last_counts() -> None:
    vectors = np.repeat(clustered(3, seed=4), 50, axis=0)
    users = sample_users(vectors, count=10, seed=0)

    class Last(Half):
        """Answers ties from the other end."""

        def search(
            self, queries: Vectors, k: int, *, ef: int | None = None, banned: Sequence[NDArray[np.int64]] = ()
        ) -> tuple[NDArray[np.int64], Vectors]:
            rows, scores = ExactEngine(vectors[::-1]).search(queries, k)
            return len(vectors) - 1 - rows, scores

    assert measure(Last(ExactEngine(vectors)), users).recall == {"interests": 1.0, "random": 1.0}
