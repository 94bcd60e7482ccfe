"""Strategies by name: what there is, what a request may set, what a package adds, and what settings get wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from msgspec import Meta

from recserve_client.contract import ErrorKind, RequestError
from recserve_server_ext.catalogue.view import view_over
from recserve_server_ext.common.arrays import Rows
from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.strategies import registry as registry_module
from recserve_server_ext.strategies.base import Candidates, ConfiguredStrategy, Options, Parts, Query, Strategy
from recserve_server_ext.strategies.fusion import Resolve
from recserve_server_ext.strategies.registry import BUILT_IN, PRESETS, Registry
from recserve_server_ext.strategies.spaces.vector_space import UserVectors, VectorSpace
from support.data import data_over
from support.events import NOW, event
from support.small_snapshot import small_snapshot
from support.user_service import Service


class LastOptions(Options, frozen=True):
    """How far back to go."""

    back: Annotated[int, Meta(ge=1, le=50)] = 1
    hidden: int = 0


class Last(Strategy):
    """What comes last in the catalogue."""

    Options = LastOptions
    per_request = frozenset({"back"})

    def candidates(self, queries: Sequence[Query], n: Sequence[int]) -> list[Rows]:
        return [query.best_of(np.arange(len(query.usable))[::-1], most) for query, most in zip(queries, n, strict=True)]

    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates]) -> list[Parts]:
        return [{self.name: of.rows.astype(np.float64)} for of in candidates]


class HalfOptions(Options, frozen=True):
    """Which strategy, by name."""

    of: str = "last"


class Half(Strategy):
    """Another strategy with half of its scores."""

    Options = HalfOptions
    per_request = frozenset({"of"})
    takes_components = True

    def __init__(self, name: str, resolve: Resolve, defaults: HalfOptions) -> None:
        super().__init__(name)
        self._resolve = resolve
        self.counts = self.prepare(defaults).strategy.counts

    def prepare(self, options: HalfOptions) -> ConfiguredStrategy:
        return ConfiguredStrategy(*self._resolve(options.of, {}))

    def candidates(self, queries: Sequence[Query], n: Sequence[int]) -> list[Rows]:
        strategy, options = queries[0].options
        found: list[Rows] = strategy.candidates([query.with_options(options) for query in queries], n)
        return found

    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates]) -> list[Parts]:
        strategy, options = queries[0].options
        whole = strategy.score([query.with_options(options) for query in queries], candidates)
        return [{name: values / 2 for name, values in parts.items()} for parts in whole]


class Elsewhere(VectorSpace):
    """Looks into a space that nobody trained."""

    space = "elsewhere"

    def user_vectors(self, queries: Sequence[Query]) -> UserVectors:
        raise AssertionError(queries)


class Point:
    """An entry point of an installed package."""

    def __init__(self, name: str, kind: type[Strategy]) -> None:
        self.name, self.kind = name, kind

    def load(self) -> type[Strategy]:
        return self.kind


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [Point("last", Last), Point("elsewhere", Elsewhere), Point("half", Half)]
    monkeypatch.setattr(registry_module, "entry_points", lambda group: points if group == "recserve.strategies" else [])


def refused(registry: Registry, name: str, options: dict[str, Any]) -> str:
    with pytest.raises(RequestError) as caught:
        registry.choose(name, options)
    assert caught.value.kind is ErrorKind.INVALID_REQUEST
    assert len(caught.value.text) < 400
    return caught.value.text


def test_all_are_there_by_name() -> None:
    registry = Registry()
    assert registry.names == tuple(sorted({*BUILT_IN, *PRESETS}))
    assert registry.choose("text", {}).strategy is registry.choose("text", {}).strategy


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    said = refused(Registry(), "populr", {})
    assert "'populr'" in said
    assert "did you mean 'popular'?" in said
    assert "als, auto, blend, ease, ensemble, fusion, generate, hybrid, item2vec, item_knn, linear, popular," in said
    assert "popular, ranker, sequence, text, text_head, transitions, user_knn, vectors" in said


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("popular", {"windw": "day"}, "no option 'windw'; a request may set: by, window"),
        ("popular", {"half_life": 2.0}, "no option 'half_life'"),
        ("popular", {"window": "century"}, "century"),
        ("item_knn", {"half_life": -1}, "half_life"),
        ("item_knn", {"half_life": "long"}, "half_life"),
        ("text", {"x": 1}, "a request may set: none"),
        ("blend", {"weights": {"text": -1.0}}, "weights"),
        ("blend", {"weights": {"nothing": 1.0}}, "no strategy 'nothing'"),
        ("blend", {"options": {"popular": {"by": "colour"}}}, "by"),
        ("popular", {"x" * 5000: 1}, "no option"),
        ("x" * 5000, {}, "no strategy"),
    ],
)
def test_options_that_are_wrong_are_refused(name: str, options: dict[str, Any], named: str) -> None:
    assert named in refused(Registry(), name, options)


def test_equal_options_are_one_object_and_defaults_stay() -> None:
    registry = Registry({"popular": {"window": "week"}})
    first, second = (registry.choose("popular", {"by": "recent"}) for _ in range(2))
    assert first.options is second.options
    assert (first.options.window, first.options.by) == ("week", "recent")
    assert registry.choose("popular", {}).options.window == "week"


def test_settings_bound_what_a_request_may_set() -> None:
    registry = Registry({"item_knn": {"bounds": {"half_life": [1, 8]}}, "popular": {"bounds": {"by": ["users"]}}})
    assert registry.choose("item_knn", {"half_life": 8}).options.half_life == 8
    assert "9.5: this server allows [1, 8]" in refused(registry, "item_knn", {"half_life": 9.5})
    assert "this server allows ['users']" in refused(registry, "popular", {"by": "recent"})


def test_settings_name_new_ones_made_of_others() -> None:
    registry = Registry(
        {
            "week": {"kind": "popular", "window": "week"},
            "mine": {"kind": "fusion", "weights": {"week": 1.0, "text": 2.0}, "prior": 3.0},
        }
    )
    strategy, fused = registry.choose("mine", {})
    assert [part.strategy.name for part in fused.components] == ["week", "text"]
    assert fused.components[0].options.window == "week"
    assert strategy.needs_texts
    assert strategy.answers_cold


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"mine": {}}, "strategies.mine: no kind 'mine'"),
        ({"mine": {"kind": "magic"}}, "no kind 'magic'; there are: als, auto, ease, fusion"),
        ({"popular": {"window": "century"}}, "strategies.popular"),
        ({"popular": {"bounds": {"colour": [1]}}}, "'colour' is no option of a request"),
        ({"mine": {"kind": "fusion", "weights": {"mine": 1.0}}}, "part of itself"),
        (
            {"a": {"kind": "fusion", "weights": {"b": 1.0}}, "b": {"kind": "fusion", "weights": {"a": 1.0}}},
            "part of itself",
        ),
        ({"mine": {"kind": "fusion", "weights": {"gone": 1.0}}}, "no strategy 'gone'"),
    ],
)
def test_settings_that_are_wrong_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match="strategies") as caught:
        Registry(settings)
    assert named in str(caught.value)


@pytest.mark.usefixtures("installed")
def test_a_package_adds_strategies() -> None:
    registry = Registry({"last": {"hidden": 3}})
    assert {"last", "text"} <= set(registry.names)
    assert registry.choose("last", {"back": 2}).options == LastOptions(2, 3)
    assert "no option 'hidden'" in refused(registry, "last", {"hidden": 4})
    assert "back" in refused(registry, "last", {"back": 51})


@pytest.mark.usefixtures("installed")
def test_a_strategy_whose_space_is_not_trained_says_so() -> None:
    vectors = np.eye(4, dtype=np.float32)
    strategy, options = Registry().choose("elsewhere", {})
    lacking = strategy.lacking(data_over(view_over(vectors, ExactEngine(vectors))), options)
    assert lacking is not None
    assert lacking.kind is ErrorKind.UNAVAILABLE
    assert "needs the space 'elsewhere'" in lacking.text


@pytest.mark.usefixtures("installed")
def test_a_package_adds_a_strategy_that_is_made_of_others(tmp_path: Path) -> None:
    service = Service(small_snapshot(tmp_path / "snapshots"), tmp_path / "store.db")
    service.store.record([event(item="i20", timestamp=NOW - 50)])
    whole, half = (service.recommend_for(k=3, strategy=name, exclude_seen=False).items for name in ("last", "half"))
    assert [item.id for item in half] == [item.id for item in whole] == ["i199", "i198", "i197"]
    assert [item.score for item in half] == [199 / 2, 198 / 2, 197 / 2]
    service.store.close()


@pytest.mark.usefixtures("installed")
def test_the_components_of_a_packages_strategy_are_checked_as_those_of_a_fusion() -> None:
    assert "no strategy 'nothing'" in refused(Registry(), "half", {"of": "nothing"})
    with pytest.raises(ConfigError, match="'half' is a part of itself"):
        Registry({"half": {"of": "half"}})
    assert Registry({"half": {"of": "popular"}}).choose("half", {}).strategy.counts == {"popularity"}
    inside = Registry({"mine": {"kind": "fusion", "weights": {"half": 1.0}}}).choose("mine", {}).options.components
    assert [part.strategy.name for part in inside] == ["half"]
