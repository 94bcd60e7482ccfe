from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recserve_console.home.catalogue_map import catalogue_map, user_places
from recserve_console.home.evaluation import evaluation_of
from recserve_console.home.state import home_state, snapshot_versions, space_versions
from recserve_export.training.run.verdict import Verdict
from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.common.files import write_json
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.space import VECTORS, space_folder
from recserve_server_ext.index.trained import Origin, publish_space
from recserve_server_ext.strategies.parts.chosen import Choice, Chosen, EvaluationFile
from support.tiny_home import copy_home


def test_the_map_has_every_item_with_its_fields(tiny_home: Path, films: list[str]) -> None:
    found = catalogue_map(tiny_home, ["title", "year", "no such field"])
    assert sorted(found.ids) == sorted(films)
    assert found.places.shape == (len(films), 2)
    assert all(fields["title"] and fields["no such field"] is None for fields in found.fields)
    assert 0 < found.kept <= 1


def test_a_user_is_where_the_user_vector_is(tiny_home: Path, films: list[str]) -> None:
    place_of = dict(zip((found := catalogue_map(tiny_home, [])).ids, found.places, strict=True))
    one = user_places(tiny_home, [films[0]], [2.0], [films[3], "gone"])
    assert one.behaviours[0] == pytest.approx(place_of[films[0]], abs=1e-5)
    assert one.user == pytest.approx(place_of[films[0]], abs=1e-5)
    assert one.items[0] == pytest.approx(place_of[films[3]], abs=1e-5)
    assert np.isnan(one.items[1]).all()
    folder = current(Workspace(tiny_home).snapshots)
    vectors = np.load(space_folder(folder) / VECTORS)
    text = vectors[5] + vectors[6]
    two = user_places(tiny_home, [text / np.linalg.norm(text), "gone"], [0.5, 1.0], [])
    assert two.user == pytest.approx(two.behaviours[0], abs=1e-5)
    assert np.isnan(user_places(tiny_home, ["gone"], [1.0], []).user).all()


def test_the_state_of_a_home(tiny_home: Path, tmp_path: Path) -> None:
    # A copy, as other tests may serve the home itself.
    home = copy_home(tiny_home, tmp_path / "home")
    state = home_state(home)
    assert state.bytes > 100_000
    assert 0 < state.free_bytes < state.total_bytes
    assert (state.memory_bytes, state.began_s) == (0, {})
    assert (Workspace(home).snapshots / state.snapshot).is_dir()
    assert space_versions(home) == []
    (served,) = snapshot_versions(home)
    assert (served.name, served.is_current, served.fault) == (state.snapshot, True, "")
    assert served.items > 100


def test_an_evaluation_is_read_with_intervals_best_first(tmp_path: Path) -> None:
    against = {"reference": "text", "difference": 0.05, "low": 0.01, "high": 0.09, "p": 0.01, "p_corrected": 0.02}
    systems = {
        "text": {"kind": "strategy", "ndcg_at_10": {"mean": 0.1, "se": 0.01}},
        "popular": {"kind": "baseline", "ndcg_at_10": {"mean": 0.15}, "against": against},
        "unmeasured": {"kind": "strategy"},
    }
    data = {"users": 3, "interactions": 9, "evaluated": "2026-01-01"}
    made = EvaluationFile(data=data, protocols={"time": systems}, chosen=Chosen(many=Choice("text")))
    write_json(Workspace(tmp_path).evaluation, made)
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


def test_a_version_says_how_it_was_compared(tmp_path: Path) -> None:
    spaces = Workspace(tmp_path).spaces
    said: dict[str, Any] = {
        "serves": False,
        "why": "worse",
        "champion": "v0",
        "users": 40,
        "ndcg": 0.1,
        "champion_ndcg": 0.2,
    }
    judged = {**said, "low": -0.15, "high": -0.05, "since_us": 1}
    for made_from in ({}, {"judged": {"serves": True, "why": "nothing was trained before"}}, {"judged": judged}):
        publish_space(spaces, "als", ["a"], np.ones((1, 2), np.float32), origin=Origin(made_from=made_from))
    worse, first, silent = space_versions(tmp_path)
    assert worse.judged == Verdict(**said, low=-0.15, high=-0.05, since_us=1)
    assert first.judged == Verdict(serves=True, why="nothing was trained before")
    assert silent.judged is None
