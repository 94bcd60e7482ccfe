"""Items and figures of `recserve bench retrieve`, without a measurement."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from recserve_benchmarks.retrieve.candidates import WANTED, build_candidates, least_ef, recall_by_kind
from recserve_benchmarks.retrieve.corpus import grown, some_of
from recserve_benchmarks.retrieve.curves import Curves
from recserve_benchmarks.retrieve.scale import cpu_at, predict, sizes_up_to
from recserve_export.index.recall import CurvePoint, sample_users
from recserve_server_ext.common.arrays import Vectors


@pytest.fixture(scope="module")
def real() -> Vectors:
    vectors = np.random.default_rng(1).normal(size=(400, 16))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def nothing(what: str, count: int, total: int) -> None:
    """Progress that nobody looks at."""


def test_synthetic_items_lie_between_a_real_one_and_one_of_its_ten_nearest(real: Vectors) -> None:
    vectors = grown(real, 3000, 5, nothing)
    assert vectors.shape == (3000, 16)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors[:400], real)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    near = np.argsort(-(real @ real.T), axis=1)[:, 1:11]
    pairs = np.stack([np.broadcast_to(real[:, None], (400, 10, 16)), real[near]], axis=2)
    # What a point is off the planes through the origin and two neighbours; the least is nothing.
    bases = np.linalg.qr(pairs.reshape(4000, 2, 16).transpose(0, 2, 1))[0]
    for point in vectors[400:3000:100]:
        inside = np.linalg.norm(np.einsum("pdk,d->pk", bases, point), axis=1)
        assert inside.max() == pytest.approx(1, abs=1e-5)


def test_fewer_items_are_the_first_of_more(real: Vectors) -> None:
    np.testing.assert_array_equal(grown(real, 700, 5, nothing), grown(real, 3000, 5, nothing)[:700])
    assert (grown(real, 700, 5, nothing)[400:] != grown(real, 700, 6, nothing)[400:]).any(axis=1).all()


def test_some_real_items_are_a_seeded_choice_in_their_order(real: Vectors) -> None:
    chosen = some_of(real, 50, 3)
    rows = [int(np.flatnonzero((real == vector).all(axis=1))[0]) for vector in chosen]
    assert rows == sorted(set(rows))
    assert (some_of(real, 50, 4) != chosen).any()
    assert some_of(real, 400, 3) is real


def test_a_graph_is_predicted_from_the_largest_before() -> None:
    assert predict({}, 1_000_000) == 0
    assert predict({10_000: 2.0, 100_000: 40.0}, 1_000_000) == pytest.approx(40 * 10 * 6 / 5)


def test_sizes_end_with_what_was_asked_for() -> None:
    assert sizes_up_to(1000) == [1000]
    assert sizes_up_to(65_000) == [10_000, 65_000]
    assert sizes_up_to(1_000_000) == [10_000, 100_000, 1_000_000]


def point(recall: float, cpu_us: float) -> CurvePoint:
    found = {"interests": recall + 0.005, "random": recall}
    return CurvePoint(
        engine="scan", parameters={}, recall=found, recall_low=found, users_per_s=1.0, cpu_us_per_user=cpu_us
    )


def test_cost_at_equal_recall_lies_between_the_points_about_it() -> None:
    points = [point(0.99, 300), point(0.97, 100), point(0.98, 200), point(0.975, 500)]
    assert cpu_at(points, 0.985) == pytest.approx(250)
    assert cpu_at(points, 0.98) == pytest.approx(200)
    assert cpu_at(points, 0.95) == pytest.approx(100)
    assert cpu_at(points, 0.995) is None


def test_the_smallest_ef_is_found_to_the_last_step() -> None:
    for wanted in (1, 10, 11, 317, 4095, 4096):
        asked: list[int] = []

        def reached(ef: int, wanted: int = wanted, asked: list[int] = asked) -> bool:
            asked.append(ef)
            return ef >= wanted

        assert least_ef(reached) == max(wanted, 10)
        assert len(asked) <= 14
    assert least_ef(lambda ef: False) is None


def test_hnswlib_gets_its_smallest_ef_and_auto_chooses_for_the_users_that_are_wanted() -> None:
    """The next smaller `ef` misses the recall, and both comparisons hold what they say at the recall they say."""
    random = np.random.default_rng(3)
    points = random.normal(size=(40, 24))[random.integers(40, size=3000)] + random.normal(size=(3000, 24))
    vectors = np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True), np.float32)
    candidates = build_candidates(vectors, 0.97, 60, 5, nothing)
    reporting = sample_users(vectors, count=60, seed=6)
    for wanted, kinds in WANTED.items():
        (chosen,) = (one for one in candidates if wanted in one.chosen_for)
        assert min(chosen.recall[kind] for kind in kinds) > 0.95
        graphs = [one for one in candidates if wanted in one.least_ef_for]
        assert [one.parameters["M"] for one in graphs] == [16, 32]
        for graph in graphs:
            assert min(graph.recall[kind] for kind in kinds) >= 0.97
            if (ef := graph.parameters["ef"]) > 10:
                narrower = replace(graph, parameters={**graph.parameters, "ef": ef - 1})
                assert min(recall_by_kind(narrower, reporting)[kind] for kind in kinds) < 0.97
    curves = Curves(candidates, 0.97)
    curves.measure(vectors, 2, 5, nothing)
    compared = curves.user_vectors()
    for wanted in WANTED:
        of = compared[wanted]
        best = [point for point in curves.engines()["hnsw"]["interests"] if wanted in point["least_ef_for"]]
        assert of["hnsw"]["parameters"] in [point["parameters"] for point in best]
        assert len(of["rounds"]) == 2
        assert of["best_to_hnsw"] == pytest.approx(np.median(of["rounds"]) if least(of) >= 0.97 else 0)


def least(compared: dict[str, Any]) -> float:
    return float(min(compared["chosen"]["recall_at_10"].values()))
