"""The strategy `sequence`: what it asks the network, and what it makes of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from recserve_export.training.base import Learned
from recserve_export.training.memory import in_memory
from recserve_server_ext.catalogue.view import View, view_over
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.networks.network import Behaviours
from recserve_server_ext.networks.runner import InProcess
from recserve_server_ext.strategies.base import Candidates, ConfiguredStrategy, Profile, Query, Strategy
from recserve_server_ext.strategies.registry import Registry
from support.data import data_over, spec_of
from support.sequence import DIM, LENGTH, tiny_network

ITEMS, TRAINED = 12, 10
SECOND = 1_000_000
RANDOM = np.random.default_rng(5)
VECTORS: Vectors = RANDOM.standard_normal((TRAINED, DIM)).astype(np.float32)
TEXT: Vectors = RANDOM.standard_normal((ITEMS, 4)).astype(np.float32)
MAP: Vectors = RANDOM.standard_normal((5, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def view() -> View:
    learned = Learned(items=np.arange(TRAINED), vectors=VECTORS, text_map=MAP, network=tiny_network())
    return view_over(
        TEXT, ExactEngine(TEXT), None, None, *in_memory({"sequence": learned}, TEXT, [f"i{n}" for n in range(ITEMS)])
    )


def strategy_of(name: str = "sequence", **options: Any) -> tuple[Strategy, Any]:
    return Registry().choose(name, options)


def history(rows: Sequence[int], weights: Sequence[float] | None = None) -> Profile:
    """A history that a request brought, oldest first."""
    given = np.ones(len(rows)) if weights is None else np.array(weights)
    return Profile(given, np.array(rows, np.int64), {}, {}, [], count=int(np.count_nonzero(given)))


def query_of(view: View, profile: Profile, options: Any, *, explain: bool = False) -> Query:
    return Query(profile, data_over(view), spec_of(ITEMS), options, explain=explain)


def answered(strategy: Strategy, query: Query) -> list[Behaviours]:
    """Answer what the strategy waits for; what it asked."""
    asked: list[Behaviours] = []
    while (call := strategy.pending(query)) is not None:
        assert (call.model, call.version) == ("sequence", tiny_network().manifest.fingerprint)
        asked += call.inputs
        query.kept.update(zip(call.inputs, InProcess(tiny_network())(call.inputs), strict=True))
    return asked


def test_the_score_is_the_product_with_what_the_network_gives(view: View) -> None:
    strategy, options = strategy_of()
    query = query_of(view, history([3, 1, 4]), options)
    (asked,) = answered(strategy, query)
    np.testing.assert_array_equal(asked.vectors, VECTORS[[3, 1, 4]])
    assert asked.pauses.tolist() == [0.0, 0.0, 0.0]
    (user,) = InProcess(tiny_network())([asked])
    (parts,) = strategy.score([query], [Candidates(np.arange(TRAINED))])
    np.testing.assert_allclose(parts["sequence"], VECTORS @ user, atol=1e-5)
    (rows,) = strategy.candidates([query], [ITEMS])
    every = np.vstack([VECTORS, TEXT[TRAINED:] @ MAP[:-1] + MAP[-1]])
    assert rows.tolist() == np.argsort(-(every @ user), kind="stable").tolist()


def test_a_logged_history_is_put_in_order_and_the_session_follows(view: View) -> None:
    strategy, options = strategy_of()
    # One behaviour of the session, then logged ones in any order, then a stated interest.
    profile = Profile(
        np.ones(5),
        np.array([7, 5, 2, 9, 0]),
        {},
        {},
        [],
        session_weights=np.array([1.0, 0, 0, 0, 0]),
        newer=np.array([0.0, 1, 0, 2, 0]),
        undecayed_weights=np.array([0.0, 1, 1, 1, 0]),
        count=5,
        time_us=np.array([100, 30, 40, 10, 100]) * SECOND,
    )
    (asked,) = answered(strategy, query_of(view, profile, options))
    np.testing.assert_array_equal(asked.vectors, VECTORS[[9, 5, 2, 7]])
    assert asked.pauses.tolist() == [0.0, 20.0, 10.0, 60.0]


def test_only_the_newest_count(view: View) -> None:
    strategy, options = strategy_of()
    rows = [n % TRAINED for n in range(LENGTH + 5)]
    (asked,) = answered(strategy, query_of(view, history(rows), options))
    np.testing.assert_array_equal(asked.vectors, VECTORS[rows[-LENGTH:]])


def test_negative_and_unknown_behaviours_are_left_out(view: View) -> None:
    strategy, options = strategy_of()
    (asked,) = answered(strategy, query_of(view, history([3, 1, -1, 4], [1.0, -1.0, 1.0, 2.0]), options))
    np.testing.assert_array_equal(asked.vectors, VECTORS[[3, 4]])


def test_items_without_interactions_and_texts_go_through_the_map(view: View) -> None:
    strategy, options = strategy_of()
    profile = history([11, -1])
    profile.vectors[1] = TEXT[11]
    (asked,) = answered(strategy, query_of(view, profile, options))
    expected = TEXT[11] @ MAP[:-1] + MAP[-1]
    np.testing.assert_allclose(asked.vectors, [expected, expected], atol=1e-5)


def test_nothing_usable_asks_nothing_and_is_refused(view: View) -> None:
    strategy, options = strategy_of()
    query = query_of(view, history([-1, 3], [1.0, -1.0]), options)
    assert strategy.pending(query) is None
    (reason,) = strategy.cold([query])
    assert reason is not None
    assert "sequence" in reason.text


def test_behaviours_are_left_out_one_by_one_where_asked_to_explain(view: View) -> None:
    strategy, options = strategy_of(reasons=2)
    assert len(answered(strategy, query_of(view, history([3, 1, 4]), options))) == 1
    query = query_of(view, history([3, -1, 1, 4]), options, explain=True)
    assert len(answered(strategy, query)) == 3
    items = Candidates(np.array([0, 5]))
    (found,) = strategy.explain([query], [items])
    assert found.is_approximate
    assert found.contributions is not None
    assert not found.contributions[:, :2].any()
    without = query_of(view, history([3, 4]), options)
    answered(strategy, without)
    (rest,) = strategy.score([without], [items])
    np.testing.assert_allclose(found.contributions[:, 2], found.parts["sequence"] - rest["sequence"], atol=1e-5)


@pytest.mark.parametrize("rows", [[3], [3, 1]])
def test_a_short_history_is_explained_as_far_as_it_goes(view: View, rows: list[int]) -> None:
    strategy, options = strategy_of(reasons=8)
    query = query_of(view, history(rows), options, explain=True)
    assert len(answered(strategy, query)) == (1 if len(rows) == 1 else 3)
    (found,) = strategy.explain([query], [Candidates(np.array([0]))])
    assert (found.contributions is None) == (len(rows) == 1)


def test_a_fusion_waits_for_its_parts(view: View) -> None:
    weights = {"weights": {"text": 1.0, "sequence": 1.0}, "prior": 0.0}
    strategy, options = strategy_of("fusion", **weights)
    query = query_of(view, history([3, 1]), options)
    assert len(answered(strategy, query)) == 1
    (parts,) = strategy.score([query], [Candidates(np.arange(3))])
    assert set(parts) == {"text", "sequence"}


def test_auto_waits_for_what_it_chooses(view: View) -> None:
    registry = Registry({"auto": {"few": {"strategy": "sequence"}, "many": {"strategy": "ease"}}})
    strategy, options = registry.choose("auto", {})
    query = query_of(view, history([3, 1]), options)
    assert len(answered(strategy, query)) == 1
    (selected,) = strategy.selected([query])
    assert isinstance(selected, ConfiguredStrategy)
    assert selected.strategy.name == "sequence"
    # `ease` is not trained, and `text` asks no network.
    many = query_of(view, history([3, 1, 4, 1, 5, 9, 2]), options)
    assert answered(strategy, many) == []


def test_what_is_not_trained_is_refused() -> None:
    view = view_over(TEXT, ExactEngine(TEXT))
    strategy, options = strategy_of()
    reason = strategy.lacking(data_over(view), options)
    assert reason is not None
    assert "run: recserve train sequence" in reason.text
