"""Which engine is chosen, with which parameters."""

from __future__ import annotations

import numpy as np
import pytest

from recserve_export.index import engine_choice
from recserve_export.index.engine_choice import EngineName, Settings, measure_all
from recserve_export.index.recall import CurvePoint, Users, reaches
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.errors import SnapshotError
from recserve_server_ext.index.engines.engine import Engine


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    """3,000 unit vectors about 60 centres, [3000, 32]."""
    random = np.random.default_rng(1)
    vectors = random.normal(size=(60, 32))[random.integers(60, size=3000)] + 0.7 * random.normal(size=(3000, 32))
    unit: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def settings(engine: EngineName, **others: object) -> Settings:
    quick = {"m": (8,), "ef": (16, 64), "ef_construction": 40, "users": 60, "threads": 1}
    codes = {"items_per_list": (256,), "dims_per_code": (2,)}
    return Settings(engine=engine, **{**quick, **codes, **others})  # type: ignore[arg-type]  # values of many types


def test_auto_measures_all_engines_and_takes_the_cheapest_that_reaches(vectors: Vectors) -> None:
    engine, report = measure_all(vectors, settings("auto"))
    assert {point.engine for point in report.points} == {"scan", "hnsw", "exact"}
    chosen = report.points[report.choice.point]
    assert report.choice.reached
    assert reaches(chosen, 0.98)
    assert chosen.cpu_us_per_user == min(p.cpu_us_per_user for p in report.points if reaches(p, 0.98))
    assert (engine.name, engine.parameters) == (chosen.engine, chosen.parameters)


@pytest.mark.parametrize("cheapest", ["scan", "hnsw", "exact"])
def test_auto_serves_what_was_cheapest(vectors: Vectors, monkeypatch: pytest.MonkeyPatch, cheapest: str) -> None:
    def measure(engine: Engine, users: Users) -> CurvePoint:
        good = {"interests": 1.0, "random": 1.0}
        return CurvePoint(
            engine=engine.name, parameters=dict(engine.parameters), items=users.items, recall=good, recall_low=good,
            users_per_s=1.0, cpu_us_per_user=1.0 if engine.name == cheapest else 2.0,
        )  # fmt: skip

    monkeypatch.setattr(engine_choice, "measure", measure)
    engine, report = measure_all(vectors, settings("auto"))
    assert engine.name == report.points[report.choice.point].engine == cheapest


@pytest.mark.parametrize("wanted", ["scan", "hnsw", "exact"])
def test_an_engine_that_is_asked_for_is_taken_and_compared_with_exact_search(
    vectors: Vectors, wanted: EngineName
) -> None:
    engine, report = measure_all(vectors, settings(wanted))
    assert engine.name == wanted == report.points[report.choice.point].engine == report.engine
    assert {point.engine for point in report.points} == {wanted, "exact"}
    assert report.points[-1].engine == "exact"


def test_scan_walks_along_the_border_of_the_target(vectors: Vectors) -> None:
    """From all lists and the most items scored downwards; with fewer of these, no fewer lists do."""
    wanted = settings("scan", rescored=(320, 80, 40, 20))
    _, report = measure_all(vectors, wanted)
    measured = {(p.parameters["nprobe"], p.parameters["rescored"]): reaches(p, 0.98) for p in report.points[:-1]}
    assert next(iter(measured)) == (16, 320)
    assert any(measured.values())
    assert not all(measured.values())
    reaching = [key for key, is_reached in measured.items() if is_reached]
    least = {scored: min(nprobe for nprobe, other in reaching if other == scored) for _, scored in reaching}
    assert [least[scored] for scored in sorted(least, reverse=True)] == sorted(least.values())


@pytest.mark.parametrize(("target", "tried"), [(0.3, {10}), (1.0, {10, 16})])
def test_scan_takes_more_codes_only_where_fewer_miss_the_target(
    vectors: Vectors, target: float, tried: set[int]
) -> None:
    engine, report = measure_all(vectors, settings("scan", recall=target, rescored=(20,), dims_per_code=(3, 2)))
    assert {point.parameters["codes"] for point in report.points[:-1]} == tried
    assert engine.parameters == report.points[report.choice.point].parameters


def test_scan_that_cannot_reach_the_target_is_given_up_at_once(vectors: Vectors) -> None:
    _, report = measure_all(vectors, settings("scan", recall=1.0, rescored=(20, 10)))
    assert [point.engine for point in report.points] == ["scan", "exact"]
    assert not report.choice.reached


def test_too_few_items_for_codes_are_served_otherwise(vectors: Vectors) -> None:
    engine, report = measure_all(vectors[:300], settings("auto"))
    assert engine.name in {"hnsw", "exact"}
    assert "scan" not in {point.engine for point in report.points}
    with pytest.raises(SnapshotError, match="scan needs 624 items to train its codes on, there are 300"):
        measure_all(vectors[:300], settings("scan"))
