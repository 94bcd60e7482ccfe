"""The engine of a space: chosen over a sample or taken over, built alone, verified over all items."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from recserve_export.index import engine_build
from recserve_export.index.build import build_index
from recserve_export.index.engine_build import Chosen, build_engine, expected_cost, last_choice
from recserve_export.index.engine_choice import EngineName, Settings
from recserve_export.index.recall import CurvePoint, reaches
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.index.engines.exact import ExactEngine

ITEMS = 3000
SAMPLE = 1000
CODES = {"lists": 16, "codes": 16, "nprobe": 16, "rescored": 80}


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    """Unit vectors about 60 centres, [3000, 32]."""
    random = np.random.default_rng(1)
    made = random.normal(size=(60, 32))[random.integers(60, size=ITEMS)] + 0.7 * random.normal(size=(ITEMS, 32))
    unit: Vectors = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)
    return unit


@pytest.fixture(autouse=True)
def _small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_build, "SAMPLE", SAMPLE)


def settings(engine: EngineName = "auto", **others: object) -> Settings:
    quick = {"m": (8,), "ef": (16, 64, 256), "ef_construction": 40, "users": 60, "threads": 1}
    codes = {"items_per_list": (256,), "dims_per_code": (2,)}
    return Settings(engine=engine, **{**quick, **codes, **others})  # type: ignore[arg-type]  # values of many types


class Stages:
    """Notes what is built, and over how many items."""

    def __init__(self) -> None:
        self.built: list[int | None] = []

    @contextmanager
    def __call__(self, what: str, total: int | None) -> Iterator[Callable[[int], None]]:
        if what.startswith("build"):
            self.built.append(total)
        yield lambda _: None


@pytest.mark.parametrize("wanted", ["auto", "scan", "hnsw", "exact"])
def test_one_engine_is_built_over_all_items_and_verified_there(vectors: Vectors, wanted: EngineName) -> None:
    stages = Stages()
    engine, report = build_engine(vectors, settings(wanted), stage=stages)
    assert stages.built.count(ITEMS) == (0 if engine.name == "exact" else 1)
    assert {point.items for point in report.points} == {SAMPLE, ITEMS}
    assert (report.chosen.items, report.choice.reached) == (ITEMS, True)
    assert reaches(report.chosen, 0.98)
    assert (engine.name, engine.parameters) == (report.chosen.engine, report.chosen.parameters)
    assert wanted in ("auto", engine.name)
    assert "chosen over a sample of 1,000 items" in report.how
    # What was found is what the engine finds.
    queries = vectors[:50]
    same = engine.search(queries, 10)[1] >= ExactEngine(vectors).search(queries, 10)[1][:, -1:] - 1e-6
    assert same.mean() > 0.9


def test_few_items_are_measured_all(vectors: Vectors) -> None:
    stages = Stages()
    engine, report = build_engine(vectors[:SAMPLE], settings(), stage=stages)
    assert set(stages.built) == {SAMPLE}
    assert {point.items for point in report.points} == {SAMPLE}
    good = [point for point in report.points if reaches(point, 0.98)]
    assert report.chosen is min(good, key=lambda point: point.cpu_us_per_user)
    assert engine.name == report.chosen.engine


def test_thorough_measures_all_engines_over_all_items(vectors: Vectors) -> None:
    _, report = build_engine(vectors, settings(thorough=True), last=Chosen("scan", CODES, ITEMS))
    assert {point.items for point in report.points} == {ITEMS}
    assert {point.engine for point in report.points} == {"scan", "hnsw", "exact"}
    assert report.how == "every engine was measured over all items"


def test_more_links_follow_where_a_graph_misses_the_target_over_all_items(vectors: Vectors) -> None:
    poor = settings("hnsw", m=(2, 3), m_if_missed=4, ef_construction=4, ef=(10, 12), recall=1.0)
    engine, report = build_engine(vectors, poor)
    assert sorted(point.parameters["M"] for point in report.points if point.items == ITEMS) == [2, 3, 4]
    assert not report.choice.reached
    assert engine.parameters == report.chosen.parameters


def test_the_last_choice_is_built_without_a_sample(vectors: Vectors) -> None:
    stages = Stages()
    engine, report = build_engine(vectors, settings(), last=Chosen("scan", CODES, ITEMS // 2), stage=stages)
    assert stages.built == [ITEMS]
    assert engine.parameters["lists"] == 32  # twice the items
    assert engine.parameters["nprobe"] < 32, "more widely than it takes"
    assert report.choice.reached
    assert [point.items for point in report.points] == [ITEMS]
    assert report.from_last
    assert report.how.startswith("taken over from the snapshot before, built in ")


def test_a_last_choice_that_misses_is_searched_more_widely_or_replaced(vectors: Vectors) -> None:
    narrow = {**CODES, "nprobe": 1, "rescored": 20}
    wide = settings(rescored=(320, 80, 20))
    engine, report = build_engine(vectors, wide, last=Chosen("scan", narrow, ITEMS))
    assert report.choice.reached
    assert report.from_last
    assert engine.parameters["nprobe"] > 1
    engine, report = build_engine(vectors, settings(rescored=(20,)), last=Chosen("scan", narrow, ITEMS))
    assert (report.choice.reached, report.from_last) == (True, False)
    assert engine.name != "scan"


def test_items_that_are_searched_for_by_other_vectors(vectors: Vectors) -> None:
    inputs = np.ascontiguousarray(vectors[:, ::-1])
    _, report = build_engine(vectors, settings(), inputs=inputs)
    assert report.choice.reached


def test_logged_users_are_measured_with_in_part(vectors: Vectors) -> None:
    _, report = build_engine(vectors, settings(), logged=vectors[:200])
    assert (report.users, report.users_from) == (60, "logged histories (60 users)")
    assert set(report.chosen.recall) == {"logged"}


def test_where_a_last_choice_holds(vectors: Vectors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = settings("scan")
    ids = [str(row) for row in range(ITEMS)]
    assert last_choice(tmp_path, "text", vectors.shape, asked) is None
    built = build_index(tmp_path, vectors, ids, encoder="raw", settings=asked)
    chosen = last_choice(tmp_path, "text", vectors.shape, asked)
    assert chosen == Chosen("scan", built.report.chosen.parameters, ITEMS)
    assert last_choice(tmp_path, "text", vectors.shape, settings("auto")) == chosen
    assert last_choice(tmp_path, "text", vectors.shape, settings("hnsw")) is None
    assert last_choice(tmp_path, "als", vectors.shape, asked) is None
    assert last_choice(tmp_path, "text", (ITEMS, 16), asked) is None
    assert last_choice(tmp_path, "text", (ITEMS, 32), settings("scan", recall=0.9)) is None
    assert [last_choice(tmp_path, "text", (items, 32), asked) is None for items in (1400, 1600, 6000, 6100)] == [
        True, False, False, True,
    ]  # fmt: skip
    again = build_index(tmp_path, vectors, ids, encoder="raw", settings=asked)
    assert again.report.from_last
    assert not build_index(tmp_path, vectors, ids, encoder="another", settings=asked).report.from_last
    monkeypatch.setattr("recserve_server_ext.common.cpu.model_name", lambda: "another CPU")
    assert last_choice(tmp_path, "text", vectors.shape, asked) is None


def test_costs_grow_with_the_items() -> None:
    def point(engine: str) -> CurvePoint:
        good = {"random": 1.0}
        return CurvePoint(
            engine=engine, parameters={}, items=100, recall=good, recall_low=good, users_per_s=1.0, cpu_us_per_user=50.0
        )

    assert 50 < expected_cost(point("scan"), 1000) < expected_cost(point("hnsw"), 1000) < 500
    # Ten times the products, over vectors that leave the cache.
    assert 500 < expected_cost(point("exact"), 1000) < 1000
    assert expected_cost(point("exact"), 100) == pytest.approx(50)
