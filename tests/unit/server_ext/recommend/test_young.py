"""Places for items that are younger than the last training."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from recserve_client.contract import ErrorKind, RequestError
from recserve_client.contract.slate_options import SlateOptions
from recserve_server_ext.config.server import ServeSettings
from recserve_server_ext.recommend.ranked_items import RankedItems
from recserve_server_ext.recommend.young import YoungPlaces, placed, wanted, young_places, young_rows
from recserve_server_ext.strategies.base import ConfiguredStrategy, Strategy
from recserve_server_ext.strategies.parts.training_needed import not_trained
from recserve_server_ext.strategies.registry import Registry

ROWS, K = 20, 10


def job_of(ranked: RankedItems, young: list[int], usable: list[int] | None = None, **more: Any) -> Any:
    """As much of a job as is looked at."""
    is_young, is_usable = np.zeros(ROWS, np.bool_), np.zeros(ROWS, np.bool_)
    is_young[young] = True
    is_usable[range(ROWS) if usable is None else usable] = True
    return SimpleNamespace(
        ranked=ranked,
        data=SimpleNamespace(view=SimpleNamespace(young=is_young)),
        lists=[SimpleNamespace(query=SimpleNamespace(usable=is_usable))],
        request=SimpleNamespace(k=K, page=more.pop("page", None)),
        options=more.pop("options", None),
        is_cold=more.pop("is_cold", False),
    )


def slate(*rows: int, rules: list[list[str]] | None = None) -> RankedItems:
    return RankedItems(np.array(rows), rules=rules, is_by_score=rules is None)


def test_the_share_is_of_the_places_and_what_is_there_counts() -> None:
    full = slate(*range(K))
    assert wanted(job_of(full, [15, 16]), 0.25) == 2
    assert wanted(job_of(full, [3, 16]), 0.25) == 1
    assert wanted(job_of(full, [3, 4, 5]), 0.25) == 0
    assert wanted(job_of(full, [15]), 0.05) == 0


def test_some_slates_get_none() -> None:
    full, group = slate(*range(K)), SlateOptions(groups=[{"attribute": "genre", "at_most": 1}])  # type: ignore[list-item]
    assert wanted(job_of(full, [15], page=object()), 0.5) == 0
    assert wanted(job_of(full, [15], options=group), 0.5) == 0
    assert wanted(job_of(full, [15], options=SlateOptions()), 0.5) == 5
    assert wanted(job_of(full, [15], is_cold=True), 0.5) == 0


def test_only_usable_items_that_are_not_there_are_taken_the_newest_first() -> None:
    assert young_rows(job_of(slate(1, 15), [15, 16, 17, 18], usable=[1, 15, 16, 18])).tolist() == [18, 16]


def test_the_last_places_are_given_up_but_not_those_of_rules() -> None:
    rules = [["pin"], [], [], [], [], [], [], [], [], ["quota"]]
    found = placed(job_of(slate(*range(K), rules=rules), [7, 15, 16]), np.array([15, 16]))
    assert found.rows.tolist() == [0, 1, 2, 3, 4, 5, 7, 9, 15, 16]  # 7 is young and stays
    assert found.rules == [["pin"], [], [], [], [], [], [], ["quota"], ["young"], ["young"]]
    assert not found.is_by_score


def test_a_short_slate_grows_and_gives_nothing_up() -> None:
    found = placed(job_of(slate(0, 1), [15]), np.array([15]))
    assert found.rows.tolist() == [0, 1, 15]
    assert found.rules == [[], [], ["young"]]


def test_a_slate_of_rules_gives_nothing_up() -> None:
    found = placed(job_of(slate(*range(K), rules=[["pin"]] * K), [15]), np.array([15]))
    assert found.rows.tolist() == list(range(K))


def test_what_explored_stays_marked() -> None:
    ranked = replace(
        slate(*range(K)), explored=np.arange(K) == 2, propensity=np.full(K, 0.5), source=np.ones(K, np.int64)
    )
    found = placed(job_of(ranked, [15]), np.array([15]))
    assert found.explored is not None
    assert found.propensity is not None
    assert found.source is not None
    assert found.explored.tolist() == [False, False, True] + [False] * 7
    assert found.propensity.tolist() == [0.5] * 9 + [1.0]
    assert found.source.tolist() == [1] * 9 + [0]


def test_the_share_is_bounded() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"<= 0\.5"):
        msgspec.convert({"young_share": 0.6}, ServeSettings)


def query_of(user: int) -> Any:
    """As much of a query as is looked at."""
    return SimpleNamespace(user=user, data=None)


class Asked:
    """A strategy that is trained or not, and knows some users."""

    def __init__(self, *, is_trained: bool, known: list[int]) -> None:
        self._is_trained, self._known = is_trained, known

    def lacking(self, data: Any, options: Any) -> RequestError | None:
        return None if self._is_trained else not_trained("ease", "ease")

    def cold(self, queries: list[Any]) -> list[RequestError | None]:
        none = RequestError(ErrorKind.EMPTY_HISTORY, "nothing")
        return [None if query.user in self._known else none for query in queries]


@pytest.mark.parametrize(
    ("is_trained", "known", "own"), [(True, [0, 1], [0, 1]), (True, [1], [1]), (False, [0, 1], [])]
)
def test_a_strategy_ranks_young_items_where_it_can(is_trained: bool, known: list[int], own: list[int]) -> None:
    def query(user: int) -> Any:
        return SimpleNamespace(
            user=user, data=None, with_options=lambda options: SimpleNamespace(user=user, data=None, options=options)
        )

    lists: list[Any] = [SimpleNamespace(query=query(user)) for user in range(2)]
    strategy: Any = Asked(is_trained=is_trained, known=known)
    found = YoungPlaces(0.2, [ConfiguredStrategy(strategy, "options")]).lists(lists)
    for user, (one, given) in enumerate(zip(found, lists, strict=True)):
        assert (one is not given) == (user in own)
        assert user not in own or (one.configured.strategy, one.query.options) == (strategy, "options")


def test_places_for_young_items_are_asked_for_by_the_settings() -> None:
    registry = Registry({"ease": {"bounds": {"half_life": [1, 10]}}})
    assert young_places(0.0, registry) is None
    places = young_places(0.2, registry)
    assert places is not None
    (ease,) = places.rankers
    assert (places.share, ease.strategy.name, ease.options.half_life) == (0.2, "ease", 1e6)


def test_the_next_strategy_ranks_what_the_first_one_cannot() -> None:
    untrained: Any = Asked(is_trained=False, known=[0, 1, 2])
    first: Any = Asked(is_trained=True, known=[1])
    second: Any = Asked(is_trained=True, known=[0, 1])
    rankers = [ConfiguredStrategy(strategy, None) for strategy in (untrained, first, second)]
    lists: list[Any] = [
        SimpleNamespace(query=SimpleNamespace(user=user, data=None, with_options=lambda _, user=user: query_of(user)))
        for user in range(3)
    ]
    found = YoungPlaces(0.2, rankers).lists(lists)
    assert [one.configured.strategy for one in found[:2]] == [second, first]
    assert found[2] is lists[2]


class Newest(Strategy):
    """A strategy of an installed package that ranks items nobody knows."""

    for_new_items: ClassVar[Mapping[str, Any] | None] = {}

    def candidates(self, queries: Any, n: Any) -> Any:
        """Never asked here."""

    def score(self, queries: Any, candidates: Any) -> Any:
        """Never asked here."""


def test_an_installed_strategy_comes_before_the_built_in_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "recserve_server_ext.strategies.registry.entry_points",
        lambda group: [SimpleNamespace(name="newest", load=lambda: Newest)],
    )
    places = young_places(0.2, Registry())
    assert places is not None
    assert [ranker.strategy.name for ranker in places.rankers] == ["newest", "ease"]
