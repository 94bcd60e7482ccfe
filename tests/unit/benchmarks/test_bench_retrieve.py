"""Items and figures of `recserve bench retrieve`, without a measurement."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.harness.load import Outcome
from recserve_benchmarks.harness.run import Run
from recserve_benchmarks.retrieve.bench import growth, sizes_up_to
from recserve_benchmarks.retrieve.curves import build, cost_at, measure
from recserve_benchmarks.retrieve.items import grown, some_of
from recserve_benchmarks.retrieve.swap import Swap, figures
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.milvus import MilvusSettings
from recserve_server_ext.index.engines.milvus.collection import exists
from recserve_server_ext.index.engines.milvus.connection import MilvusConnection
from recserve_server_ext.index.engines.milvus.engine import MilvusEngine
from support.milvus import MilvusProcess


@pytest.fixture(scope="module")
def real() -> Vectors:
    vectors = np.random.default_rng(1).normal(size=(400, 16))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def run_of(seed: int, rounds: int = 1) -> Run:
    """A run that shows nothing."""
    return Run(workspace=Workspace(Path()), encoder=Path(), rounds=rounds, seed=seed, show=lambda *_: None)


def test_synthetic_items_lie_between_a_real_one_and_one_of_its_ten_nearest(real: Vectors) -> None:
    vectors = grown(real, 3000, run_of(5))
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


def test_synthetic_items_follow_the_seed(real: Vectors) -> None:
    np.testing.assert_array_equal(grown(real, 700, run_of(5)), grown(real, 700, run_of(5)))
    assert (grown(real, 700, run_of(5))[400:] != grown(real, 700, run_of(6))[400:]).any(axis=1).all()
    assert grown(real, 400, run_of(5)) is real


def test_some_real_items_are_a_seeded_choice_in_their_order(real: Vectors) -> None:
    chosen = some_of(real, 50, 3)
    rows = [int(np.flatnonzero((real == vector).all(axis=1))[0]) for vector in chosen]
    assert rows == sorted(set(rows))
    assert (some_of(real, 50, 4) != chosen).any()
    assert some_of(real, 400, 3) is real


def test_sizes_end_with_what_was_asked_for() -> None:
    assert sizes_up_to(1000, 1000) == [1000]
    assert sizes_up_to(65_000, 65_000) == [10_000, 65_000]
    assert sizes_up_to(1_000_000, 65_000) == [10_000, 65_000, 100_000, 1_000_000]


def test_growth_is_told_of_engines_that_reach_the_recall_at_both_sizes() -> None:
    def size(items: int, **cpu_us: float) -> dict[str, object]:
        return {"items": items, "at_recall": {name: {"cpu_us_per_user": value} for name, value in cpu_us.items()}}

    steps = growth([size(10, scan=100.0, hnsw=50.0), size(100, scan=300.0, exact=9.0), size(1000, scan=600.0)])
    assert steps == [{"from": 10, "to": 100, "scan": 3.0}, {"from": 100, "to": 1000, "scan": 2.0}]


def test_cost_at_equal_recall_lies_between_the_points_about_it() -> None:
    recalls = [0.99, 0.97, 0.98, 0.975]
    costs = np.array([[300.0, 3.0], [100.0, 1.0], [200.0, 2.0], [500.0, 0.5]])
    assert cost_at(recalls, costs, 0.985) == pytest.approx([250, 2.5])
    assert cost_at(recalls, costs, 0.98) == pytest.approx([200, 2])
    # Where the cheapest point finds more, its cost counts.
    assert cost_at(recalls, costs, 0.95) == pytest.approx([100, 0.5])
    assert cost_at(recalls, costs, 0.995) is None


def test_engines_are_compared_at_equal_recall_in_every_round() -> None:
    random = np.random.default_rng(3)
    points = random.normal(size=(40, 24))[random.integers(40, size=3000)] + random.normal(size=(3000, 24))
    vectors = np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True), np.float32)
    run = run_of(5, rounds=2)
    with ExitStack() as stack:
        built = build(vectors, 60, "", run, stack)
    assert {(one.engine.name, one.engine.parameters.get("M")) for one in built.candidates} == {
        *(("hnsw", 16), ("hnsw", 32), ("scan", None), ("exact", None)),
        *((peer, m) for peer in ("faiss_hnsw", "usearch") for m in (16, 32)),
    }
    found = measure(built, vectors, 60, run)
    for points_of in found["engines"].values():
        for point in points_of:
            assert set(point["recall_at_10"]) == {"interests", "random"}
            assert set(point["users_per_s"]) == {"1", "8", "32"}
    (chosen,) = (point for of in found["engines"].values() for point in of if point["is_chosen"])
    assert chosen["parameters"] == built.chosen.point.parameters
    assert min(chosen["recall_at_10"].values()) > 0.95
    assert found["engines"]["milvus"] == []
    for peer in ("faiss_hnsw", "usearch"):
        assert max(min(point["recall_at_10"].values()) for point in found["engines"][peer]) > 0.95
        assert found["at_recall"][peer]["cpu_us_per_user"] > 0
    assert found["at_recall"]["exact"]["cpu_us_per_user"] > 0
    assert all(len(ratios) == 2 and min(ratios) > 0 for ratios in found["to_hnsw"].values())


def test_points_of_one_graph_are_searched_with_their_own_width_from_the_first_search_on() -> None:
    vectors = np.random.default_rng(5).normal(size=(3200, 96)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    items, queries = vectors[:3000], vectors[3000:]  # queries that are items are found by any width
    with ExitStack() as stack:
        built = build(items, 30, "", run_of(5), stack)
    graph = [one for one in built.candidates if one.engine.name == "hnsw" and one.engine.parameters["M"] == 16]
    narrow, wide = graph[0], graph[-1]
    first = narrow.search(queries)
    assert (wide.search(queries) > first).any()
    np.testing.assert_array_equal(narrow.search(queries), first)


@pytest.mark.milvus
def test_milvus_is_measured_where_it_is_named(real: Vectors, milvus: MilvusProcess) -> None:
    vectors = grown(real, 1000, run_of(7))
    with ExitStack() as stack:
        built = build(vectors, 20, milvus.uri, run_of(7), stack)
        assert built.chosen.engine.name != "milvus"
        found = measure(built, vectors, 20, run_of(7))
        assert len(found["engines"]["milvus"]) >= 5
        engines = [one.engine for one in built.candidates]
        (name,) = {engine.collection for engine in engines if isinstance(engine, MilvusEngine)}
        connection = MilvusConnection(MilvusSettings(uri=milvus.uri))
        assert exists(connection, name)
    assert not exists(connection, name)


def test_latency_is_told_before_and_during_a_swap() -> None:
    moments = np.array([[100.0, 1.0], [100.5, 2.0], [101.2, 8.0], [102.0, 6.0], [110.0, 1.0]])
    outcome = Outcome(5, {"UNAVAILABLE": 2}, 10.0, 2.0, 8.0, [], moments)
    found = figures(outcome, Swap(101.0, 102.0))
    assert found["failed"] == 2
    assert found["p99_ratio"] == pytest.approx(np.percentile([6, 8], 99) / np.percentile([1, 2], 99))
    assert (found["longest_during_ms"], found["compaction_s"]) == (8, 1)
    timeline = found["timeline"]
    assert (timeline["compaction_started_s"], timeline["swapped_s"]) == (1, 2)
    assert timeline["second"] == [0, 1, 2, 10]
    assert timeline["p50_ms"] == [1.5, 8, 6, 1]
    with pytest.raises(BenchmarkError, match="0 answers before the compaction, 2 during it"):
        figures(Outcome(5, {}, 10.0, 2.0, 8.0, [], moments[2:]), Swap(101.0, 102.0))
