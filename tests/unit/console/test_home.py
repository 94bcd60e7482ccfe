from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recserve_console.home.catalogue_map import catalogue_map, principal_axes
from recserve_console.home.evaluation import evaluation_of
from recserve_console.home.state import home_state, space_versions
from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.strategies.parts.chosen import Choice, Chosen, EvaluationFile, write_evaluation
from support.tiny_home import copy_home


def test_principal_axes_are_those_of_a_singular_value_decomposition() -> None:
    random = np.random.default_rng(0)
    vectors = (random.normal(size=(200, 6)) * [5, 3, 1, 0.5, 0.2, 0.1] + 7).astype(np.float32)
    mean, axes, kept = principal_axes(vectors)
    _, singular, right = np.linalg.svd(vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64))
    assert np.abs((axes * right[:2].T).sum(axis=0)) == pytest.approx([1, 1], abs=1e-6)
    assert kept == pytest.approx((singular[:2] ** 2).sum() / (singular**2).sum(), rel=1e-5)
    assert mean == pytest.approx(vectors.mean(axis=0), rel=1e-5)


def test_one_item_has_a_place() -> None:
    mean, axes, kept = principal_axes(np.ones((1, 4), np.float32))
    assert ((np.ones((1, 4)) - mean) @ axes).tolist() == [[0.0, 0.0]]
    assert kept == 1.0


def test_the_map_has_every_item_with_its_fields(tiny_home: Path, films: list[str]) -> None:
    found = catalogue_map(tiny_home, ["title", "year", "no such field"])
    assert sorted(found.ids) == sorted(films)
    assert found.places.shape == (len(films), 2)
    assert all(fields["title"] and fields["no such field"] is None for fields in found.fields)
    assert 0 < found.kept <= 1


def test_the_state_of_a_home(tiny_home: Path, tmp_path: Path) -> None:
    # A copy, as other tests may serve the home itself.
    home = copy_home(tiny_home, tmp_path / "home")
    state = home_state(home)
    assert state.bytes > 100_000
    assert 0 < state.free_bytes < state.total_bytes
    assert state.memory_bytes == 0
    assert (Workspace(home).snapshots / state.snapshot).is_dir()
    assert space_versions(home) == []


def test_an_evaluation_is_read_with_intervals_best_first(tmp_path: Path) -> None:
    against = {"reference": "text", "difference": 0.05, "low": 0.01, "high": 0.09, "p": 0.01, "p_corrected": 0.02}
    systems = {
        "text": {"kind": "strategy", "ndcg_at_10": {"mean": 0.1, "se": 0.01}},
        "popular": {"kind": "baseline", "ndcg_at_10": {"mean": 0.15}, "against": against},
        "unmeasured": {"kind": "strategy"},
    }
    data = {"users": 3, "interactions": 9, "evaluated": "2026-01-01"}
    made = EvaluationFile(data=data, protocols={"time": systems}, chosen=Chosen(many=Choice("text")))
    write_evaluation(Workspace(tmp_path).evaluation, made)
    found = evaluation_of(tmp_path)
    assert found is not None
    first, second = found.protocols["time"]
    assert (first.system, first.is_baseline, first.low, first.high) == ("popular", True, 0.15, 0.15)
    assert (first.difference, first.p) == ((0.05, 0.01, 0.09), 0.02)
    assert (second.low, second.high) == pytest.approx((0.0804, 0.1196))
    assert found.chosen == {"cold": None, "few": None, "many": Choice("text")}


def test_a_home_without_or_with_a_broken_evaluation(tmp_path: Path) -> None:
    assert evaluation_of(tmp_path) is None
    Workspace(tmp_path).evaluation.write_text("{")
    with pytest.raises(ConfigError, match="evaluate again"):
        evaluation_of(tmp_path)
