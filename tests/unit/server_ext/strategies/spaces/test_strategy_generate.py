"""The strategy `generate`: what it generates, and what it says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from recserve_export.training.base import Learned
from recserve_export.training.memory import in_memory
from recserve_server_ext.attributes.view import Allowed
from recserve_server_ext.catalogue.store import StoredItem
from recserve_server_ext.catalogue.view import Delta, View, view_over
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.networks.decoder import quantised
from recserve_server_ext.networks.network import Behaviours
from recserve_server_ext.networks.runner import InProcess
from recserve_server_ext.retrieval.search import CandidateSpec
from recserve_server_ext.strategies.base import Candidates, Profile, Query, Strategy
from recserve_server_ext.strategies.registry import Registry
from support.data import data_over, spec_of
from support.sequence import CODES, DIM, LEVELS, tiny_generator

ITEMS, TRAINED = 30, 26
RANDOM = np.random.default_rng(5)
VECTORS: Vectors = RANDOM.standard_normal((TRAINED, DIM)).astype(np.float32)
INPUTS: Vectors = RANDOM.standard_normal((TRAINED, DIM)).astype(np.float32)
TEXT: Vectors = RANDOM.standard_normal((ITEMS, 4)).astype(np.float32)
MAP: Vectors = RANDOM.standard_normal((5, 2 * DIM)).astype(np.float32)
IDS = [f"i{n}" for n in range(ITEMS)]


@pytest.fixture(scope="module")
def view() -> View:
    learned = Learned(items=np.arange(TRAINED), vectors=VECTORS, inputs=INPUTS, text_map=MAP, network=tiny_generator())
    return view_over(TEXT, ExactEngine(TEXT), None, None, *in_memory({"generate": learned}, TEXT, IDS))


def strategy_of(name: str = "generate", **options: Any) -> tuple[Strategy, Any]:
    return Registry().choose(name, options)


def query_of(
    view: View, rows: Sequence[int], options: Any, *, spec: CandidateSpec | None = None, explain: bool = False
) -> Query:
    """A history that a request brought, oldest first, whose network has answered."""
    profile = Profile(np.ones(len(rows)), np.array(rows, np.int64), {}, {}, [], count=len(rows))
    return Query(profile, data_over(view), spec or spec_of(5), options, explain=explain)


def answered(strategy: Strategy, query: Query) -> list[Behaviours]:
    """Answer what the strategy waits for; what it asked."""
    asked: list[Behaviours] = []
    while (call := strategy.pending(query)) is not None:
        assert (call.model, call.version) == ("sequence", tiny_generator().manifest.fingerprint)
        asked += call.inputs
        query.kept.update(zip(call.inputs, InProcess(tiny_generator())(call.inputs), strict=True))
    return asked


def ranked(strategy: Strategy, query: Query, n: int) -> list[int]:
    (rows,) = strategy.candidates([query], [n])
    return list(rows.tolist())


def scores(strategy: Strategy, query: Query, rows: Sequence[int]) -> Any:
    (parts,) = strategy.score([query], [Candidates(np.array(rows, np.int64))])
    return parts["generate"]


def test_histories_are_read_by_input_vectors(view: View) -> None:
    strategy, options = strategy_of()
    (asked,) = answered(strategy, query_of(view, [3, 1, 4], options))
    np.testing.assert_array_equal(asked.vectors, INPUTS[[3, 1, 4]])


def test_a_wide_beam_ranks_all_items_by_their_probability(view: View) -> None:
    strategy, options = strategy_of(beam=200)
    query = query_of(view, [3, 1, 4], options)
    answered(strategy, query)
    rows = ranked(strategy, query, ITEMS)
    assert sorted(rows) == list(range(ITEMS))
    p = scores(strategy, query, rows)
    assert (np.diff(p) <= 0).all()
    assert 0 < p.sum() <= 1 + 1e-5
    # Nobody has searched for this one: the decoder is asked for each item.
    fresh = query_of(view, [3, 1, 4], options)
    answered(strategy, fresh)
    np.testing.assert_allclose(scores(strategy, fresh, rows), p, rtol=1e-5)


def test_a_narrow_beam_gives_as_many_items_as_are_wanted(view: View) -> None:
    strategy, options = strategy_of(beam=1)
    query = query_of(view, [3, 1, 4], options)
    answered(strategy, query)
    few = ranked(strategy, query, 2)
    assert len(few) == 2
    assert sorted(ranked(strategy, query, ITEMS)) == list(range(ITEMS))


def test_filters_and_bans_are_out_within_the_search_and_change_no_score(view: View) -> None:
    strategy, options = strategy_of(beam=1)
    free = query_of(view, [3, 1, 4], options)
    answered(strategy, free)
    first = ranked(strategy, free, ITEMS)
    mask = np.zeros(ITEMS, np.bool_)
    mask[first[10:]] = True
    allowed = Allowed(mask, ITEMS)
    query = query_of(view, [3, 1, 4], options, spec=CandidateSpec(5, np.array(first[10:12]), allowed=allowed))
    answered(strategy, query)
    found = ranked(strategy, query, 8)
    assert len(found) == 8
    assert not set(found) & set(first[:12])
    np.testing.assert_array_equal(scores(strategy, query, found), scores(strategy, free, found))
    # A query for a quota shares what is kept and has another filter.
    again = query.with_spec(CandidateSpec(3, np.empty(0, np.int64)))
    anew = query_of(view, [3, 1, 4], options)
    answered(strategy, anew)
    assert ranked(strategy, again, 3) == ranked(strategy, anew, 3)


def test_the_same_user_has_the_same_slate_in_any_company(view: View) -> None:
    strategy, options = strategy_of(beam=3)
    histories = [RANDOM.integers(0, TRAINED, 4).tolist() for _ in range(33)]
    queries = [query_of(view, history, options) for history in histories]
    for query in queries:
        answered(strategy, query)
    together = strategy.candidates(queries, [5] * len(queries))
    parts = strategy.score(queries, [Candidates(rows) for rows in together])
    for history, rows, of in zip(histories, together, parts, strict=True):
        alone = query_of(view, history, options)
        answered(strategy, alone)
        assert ranked(strategy, alone, 5) == rows.tolist()
        np.testing.assert_array_equal(scores(strategy, alone, rows.tolist()), of["generate"])


def test_a_new_item_has_an_id_without_a_training_and_a_deleted_one_none(view: View) -> None:
    text = RANDOM.standard_normal((1, 4)).astype(np.float32)
    stored = StoredItem("new", {}, {})
    available = np.ones(ITEMS + 1, np.bool_)
    available[2] = False
    changed = replace(view, delta=Delta(1, [stored], text, 1, {"new": ITEMS, "i2": -1}, available))
    strategy, options = strategy_of(beam=200)
    query = query_of(changed, [3, 1, 4], options)
    answered(strategy, query)
    rows = ranked(strategy, query, ITEMS + 1)
    assert sorted(rows) == [row for row in range(ITEMS + 1) if row != 2]
    assert scores(strategy, query, [2]).tolist() == [0.0]
    vector = (text @ MAP[:-1] + MAP[-1])[:, :DIM].astype(np.float32)
    decoder = tiny_generator().decoder
    assert decoder is not None
    (codes,) = quantised(vector, decoder.codebooks)
    tree = strategy._tree_of(query)  # type: ignore[attr-defined]  # what is searched
    np.testing.assert_array_equal(tree.codes[tree.place_of[ITEMS]], codes)
    # The next batch sees the catalogue without it again.
    before = query_of(view, [3, 1, 4], options)
    answered(strategy, before)
    assert sorted(ranked(strategy, before, ITEMS)) == list(range(ITEMS))


def test_reasons_are_what_the_score_loses_without_a_behaviour(view: View) -> None:
    strategy, options = strategy_of(reasons=2)
    query, other = (query_of(view, rows, options, explain=True) for rows in ([3, 1, 4], [7, 8]))
    assert len(answered(strategy, query)) == 3
    assert len(answered(strategy, other)) == 3
    items = [Candidates(np.array([0, 5])), Candidates(np.array([9]))]
    found, _ = strategy.explain([query, other], items)
    assert found.is_approximate
    assert found.contributions is not None
    without = query_of(view, [3, 4], options)
    answered(strategy, without)
    np.testing.assert_allclose(found.contributions[:, 1], found.parts["generate"] - scores(strategy, without, [0, 5]))
    assert not found.contributions[:, 0].any()
    plain = query_of(view, [3, 1, 4], options)
    answered(strategy, plain)
    (unexplained,) = strategy.explain([plain], items[:1])
    assert unexplained.contributions is None


def test_the_deviation_is_that_of_the_probabilities(view: View) -> None:
    strategy, options = strategy_of(beam=200)
    query = query_of(view, [3, 1, 4], options)
    answered(strategy, query)
    ranked(strategy, query, ITEMS)
    p = scores(strategy, query, range(ITEMS))
    # They add up to less than 1 where ids do not exist.
    assert float(strategy.std([query])[0]) == pytest.approx(np.sqrt((p**2).mean() - 1 / ITEMS**2), rel=1e-5)


def test_a_fusion_waits_for_it_and_a_cold_user_is_refused(view: View) -> None:
    weights = {"weights": {"text": 1.0, "generate": 1.0}, "prior": 0.0}
    strategy, options = strategy_of("fusion", **weights)
    query = query_of(view, [3, 1], options)
    answered(strategy, query)
    (parts,) = strategy.score([query], [Candidates(np.arange(3))])
    assert set(parts) == {"text", "generate"}
    strategy, options = strategy_of()
    (reason,) = strategy.cold([query_of(view, [-1], options)])
    assert reason is not None
    assert "no behaviour of the user has a vector in the space 'generate'" in reason.text


def test_what_is_not_trained_is_refused() -> None:
    strategy, options = strategy_of()
    reason = strategy.lacking(data_over(view_over(TEXT, ExactEngine(TEXT))), options)
    assert reason is not None
    assert "run: recserve train generate" in reason.text


def test_the_tiny_generator_is_what_it_says() -> None:
    assert tiny_generator().manifest.levels == LEVELS
    assert CODES**LEVELS < ITEMS
