"""The ranker: scores of its trees, parts that add up, batches, filters, refusals, the order of an untrained pool."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from lightgbm import Booster
from msgspec.structs import replace

from recserve_export.training.base import Learned, TrainingLog
from recserve_export.training.ranking.questions import questions
from recserve_export.training.registry import TRAINERS, train
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.strategies.base import Candidates, Query
from recserve_server_ext.strategies.parts.ranking import CandidateSources, feature_names
from recserve_server_ext.strategies.parts.scatter import Scatter
from recserve_server_ext.strategies.ranker import BOOSTER, Ranker
from recserve_server_ext.strategies.registry import Registry
from support.data import data_over
from support.edited import Edited
from support.published import query_of, rows_of, serving
from support.training_logs import log_of

ITEMS = 30
SETTINGS = {"trees": 20, "least": 2, "cuts": 2}


@pytest.fixture
def edited(tmp_path: Path) -> Iterator[Edited]:
    edited = Edited(tmp_path, tmp_path / "catalogue.db", items=ITEMS)
    yield edited
    edited.store.close()


@pytest.fixture(scope="module")
def log() -> TrainingLog:
    return log_of(80, ITEMS, 900)


@pytest.fixture(scope="module")
def learned(log: TrainingLog) -> dict[str, Learned]:
    found = {name: train(name, log, None) for name in ("ease", "transitions", "als", "item_knn", "user_knn")}
    return {**found, "ranker": train("ranker", log, None, SETTINGS)}


@pytest.fixture
def view(edited: Edited, log: TrainingLog, learned: dict[str, Learned]) -> View:
    return serving(edited, log, learned).view()


def ranker() -> Ranker:
    strategy = Registry().choose("ranker", {}).strategy
    assert isinstance(strategy, Ranker)
    return strategy


def asked(view: View, *histories: list[str]) -> list[Query]:
    """Queries of one batch."""
    queries = [query_of(view, names, "ranker", 5) for names in histories]
    data, options = data_over(view), Registry().choose("ranker", {}).options
    return [Query(query.profile, data, query.spec, options) for query in queries]


def test_candidates_are_ordered_by_the_scores_of_the_model(view: View) -> None:
    strategy, queries = ranker(), asked(view, ["i3", "i1", "i7"])
    (rows,) = strategy.candidates(queries, [12])
    (parts,) = strategy.score(queries, [Candidates(rows)])
    assert len(set(rows.tolist())) == len(rows) == 12
    assert parts["ranker"].tolist() == sorted(parts["ranker"], reverse=True)
    assert parts["ranker"].std() > 0


def test_rows_outside_the_pool_have_scores_too(view: View) -> None:
    strategy, queries = ranker(), asked(view, ["i3", "i1", "i7"])
    every = rows_of(view, [f"i{n}" for n in range(ITEMS)])
    (pool,) = strategy.candidates(queries, [ITEMS])
    assert len(pool) < ITEMS
    (of_all,) = strategy.score(queries, [Candidates(every)])
    (of_pool,) = strategy.score(queries, [Candidates(pool)])
    np.testing.assert_allclose(of_all["ranker"][pool], of_pool["ranker"], atol=1e-12)


def test_parts_are_named_after_the_sources_and_add_up_to_the_score(view: View) -> None:
    strategy, queries = ranker(), asked(view, ["i3", "i1", "i7"], ["i2"])
    picks = [Candidates(rows[:n]) for rows, n in zip(strategy.candidates(queries, [10, 10]), (10, 4), strict=True)]
    scored = strategy.score(queries, picks)
    for explanation, parts in zip(strategy.explain(queries, picks), scored, strict=True):
        np.testing.assert_allclose(sum(explanation.parts.values()), parts["ranker"], atol=1e-9)
        assert {"ease", "popular", "popularity", "history", "base"} <= explanation.parts.keys()
        assert explanation.contributions is None


def test_behaviours_are_told_by_leaving_them_out(view: View) -> None:
    """The share of a behaviour is the score less that of the history without it, as if it were asked alone."""
    history = ["i3", "i1", "i7", "i2"]
    strategy, options = ranker(), Registry().choose("ranker", {"reasons": 3}).options
    (plain,), (other,) = asked(view, history), asked(view, ["i9"])
    queries = [Query(of.profile, of.data, of.spec, options, explain=True) for of in (plain, other)]
    picks = [Candidates(rows[:4]) for rows in strategy.candidates(queries, [10, 10])]
    told, single = strategy.explain(queries, picks)
    assert told.is_approximate
    assert told.contributions is not None
    assert not told.contributions[:, 3].any()  # only the newest three are told
    assert told.contributions[:, :3].any()
    whole = sum(told.parts.values())
    for left_out in range(3):
        (shorter,) = asked(view, [name for place, name in enumerate(history) if place != left_out])
        banned = Query(shorter.profile, shorter.data, plain.spec, shorter.options)
        (alone,) = strategy.score([banned], picks[:1])
        np.testing.assert_allclose(told.contributions[:, left_out], whole - alone["ranker"], atol=1e-9)
    # Of a single behaviour nothing would be left.
    assert (single.contributions, single.is_approximate) == (None, False)
    (unexplained,) = strategy.explain([Query(plain.profile, plain.data, plain.spec, options)], picks[:1])
    assert unexplained.contributions is None
    np.testing.assert_allclose(sum(unexplained.parts.values()), whole, atol=1e-12)


def test_a_user_gets_the_same_in_any_batch(view: View) -> None:
    histories = [["i3", "i1", "i7"], ["i2"], ["i9", "i4"]]
    together = ranker().candidates(asked(view, *histories), [10] * 3)
    for names, rows in zip(histories, together, strict=True):
        (alone,) = ranker().candidates(asked(view, names), [10])
        assert alone.tolist() == rows.tolist()


def test_queries_that_share_a_cache_have_candidates_of_their_own_filters(view: View) -> None:
    """As those of a slate and of its quota do."""
    strategy, (query,) = ranker(), asked(view, ["i3", "i1", "i7"])
    (alone,) = ranker().candidates(asked(view, ["i3", "i1", "i7"]), [10])
    banned = Query(query.profile, query.data, replace(query.spec, banned=alone[:3]), query.options, kept=query.kept)
    whole, rest = strategy.candidates([query, banned], [10, 10])
    assert whole.tolist() == alone.tolist()
    assert not set(alone[:3].tolist()) & set(rest.tolist())


def test_another_filter_is_asked_anew(view: View) -> None:
    strategy = ranker()
    (query,) = asked(view, ["i3", "i1", "i7"])
    (before,) = strategy.candidates([query], [10])
    banned = Query(query.profile, query.data, replace(query.spec, banned=before[:3]), query.options, kept=query.kept)
    (after,) = strategy.candidates([banned], [10])
    assert not set(before[:3].tolist()) & set(after.tolist())


def test_users_whom_no_source_knows_are_cold(view: View) -> None:
    queries = asked(view, ["unknown"], ["i1"])
    assert [reason is not None for reason in ranker().cold(queries)] == [True, False]


def test_a_missing_source_and_a_source_of_another_training_are_refused(
    edited: Edited, log: TrainingLog, learned: dict[str, Learned]
) -> None:
    view = serving(edited, log, {name: of for name, of in learned.items() if name != "als"}).view()
    strategy, options = Registry().choose("ranker", {})
    lacking = strategy.lacking(data_over(view), options)
    assert lacking is not None
    assert "recserve train als" in lacking.text
    sources = {"ease": {"strategy": "ease"}, "popular": {"strategy": "popular"}}
    strategy, options = Registry({"ranker": {"sources": sources}}).choose("ranker", {})
    lacking = strategy.lacking(data_over(view), options)
    assert lacking is not None
    assert "'transitions'" in lacking.text
    assert "recserve train ranker" in lacking.text


def test_a_training_is_the_same_again(log: TrainingLog, learned: dict[str, Learned]) -> None:
    again = train("ranker", log, None, SETTINGS)
    assert again.model is not None
    assert learned["ranker"].model is not None
    np.testing.assert_array_equal(again.model[BOOSTER], learned["ranker"].model[BOOSTER])
    booster = Booster(model_str=again.model[BOOSTER].tobytes().decode())
    assert booster.feature_name() == feature_names(["ease", "transitions", "als", "item_knn", "user_knn", "popular"])


def test_sources_do_not_know_what_is_asked_for(log: TrainingLog) -> None:
    vectors, pairs = np.zeros((ITEMS, 1), np.float32), set(zip(log.user.tolist(), log.item.tolist(), strict=True))
    found = list(questions(log, vectors, TRAINERS, seed=0, cuts=3, most=1000))
    assert len(found) == 4
    for question in found:
        known = set(zip(question.past.columns.user.tolist(), question.past.columns.subject.tolist(), strict=True))
        targets = set(zip(question.target_user.tolist(), question.target_item.tolist(), strict=True))
        assert targets
        assert targets <= pairs
        assert not targets & known
        if question.asked_us is not None:
            assert question.past.columns.time_us.max() < question.asked_us
    assert len(next(questions(log, vectors, TRAINERS, seed=0, cuts=0, most=7)).users) <= 7


def test_a_log_without_an_answer_keeps_the_order_of_the_pool(edited: Edited, learned: dict[str, Learned]) -> None:
    single = log_of(1, ITEMS, 1)
    untrained = {**learned, "ranker": train("ranker", single, None)}
    view = serving(edited, log_of(80, ITEMS, 900), untrained).view()
    queries = asked(view, ["i3", "i1", "i7"])
    (rows,) = ranker().candidates(queries, [10])
    sources = CandidateSources(list(queries[0].options.sources.values()), Scatter())
    proposed = sources.propose(queries, sources.asked(queries), 200)
    assert rows.tolist() == proposed[0].pool[:10].tolist()
