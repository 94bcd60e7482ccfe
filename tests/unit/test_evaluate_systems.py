"""Systems of the offline evaluation: the served functions behind text, counts by hand, interleaving and blends."""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from recserve_benchmarks.evaluation.blend import all_three, log_and_text, standard, with_popularity
from recserve_benchmarks.evaluation.log import item_knn, popularity, recent_popularity, similarities
from recserve_benchmarks.evaluation.options import SYSTEMS, as_types, by_types
from recserve_benchmarks.evaluation.ranking import Known, ranked
from recserve_benchmarks.evaluation.run import choose
from recserve_benchmarks.evaluation.system import Settings, System
from recserve_benchmarks.evaluation.text import by_rules
from recserve_client.contract import Slate
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.config.server import Limits
from recserve_server_ext.encoder.text_cache import TextCaches
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.recommend.pipeline import Recommender
from support.known_log import known_of
from support.small_snapshot import view_of

DIM = 16


def unit_vectors(items: int, seed: int = 1) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(items, DIM))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def served(vectors: Vectors, histories: Sequence[list[int]]) -> list[Slate]:
    """What the recommender answers to these histories."""
    view = view_of(vectors, ExactEngine(vectors))
    recommender = Recommender(lambda: view, TextCaches(10), Limits())
    recommender.begin()
    requests = [{"history": [{"item": f"i{item}"} for item in of_user], "k": 10} for of_user in histories]
    jobs = [recommender.accept(json.dumps(request).encode()) for request in requests]
    recommender.look_up(jobs)
    return [msgspec.json.decode(answer, type=Slate) for answer in recommender.answer(jobs) if isinstance(answer, bytes)]


def test_the_plain_mean_is_what_the_recommender_serves() -> None:
    rng = np.random.default_rng(2)
    vectors = unit_vectors(150)
    histories = [rng.choice(150, size, replace=False).tolist() for size in (1, 3, 3, 8, 40)]
    known = known_of(histories, 150, vectors=vectors)
    scores = by_rules(known, {})
    rankings = ranked(scores, known, 10)
    slates = served(vectors, histories)
    assert len(slates) == len(histories)
    for user, slate in enumerate(slates):
        # Random vectors in 16 dimensions have no ties within float32's noise for this seed.
        assert [f"i{item}" for item in rankings[user]] == [item.id for item in slate.items]
        assert scores[user, rankings[user]] == pytest.approx([item.score for item in slate.items], abs=1e-6)


def test_items_without_a_text_and_users_without_a_history_have_no_text_score() -> None:
    vectors = unit_vectors(6)
    vectors[4] = 0.0
    scores = by_rules(known_of([[0, 1], [], [4]], 6, vectors=vectors), {})
    assert np.isneginf(scores[:, 4]).all()
    assert np.isneginf(scores[1:]).all()
    assert np.isfinite(scores[0, [0, 1, 2, 3, 5]]).all()


def test_decay_by_position_leans_to_the_newest() -> None:
    vectors = np.eye(4, DIM, dtype=np.float32)
    scores = by_rules(known_of([[0, 1]], 4, vectors=vectors), {"half_life_events": 1.0})
    assert scores[0, :2] == pytest.approx(np.array([0.5, 1.0]) / np.sqrt(1.25), abs=1e-6)


def test_every_option_changes_rules_that_exist() -> None:
    known = known_of([[0, 1, 2], [3]], 8, vectors=unit_vectors(8))
    for system in SYSTEMS:
        for settings in system.grid:
            assert system.score(known, settings).shape == (2, 8)


def test_ratings_become_types() -> None:
    known = known_of([[0, 1, 2, 3]], 5, vectors=unit_vectors(5))
    known.columns.value[:] = [5.0, 3.0, 2.0, np.nan]
    typed = as_types(known.columns)
    assert [typed.types[code] for code in typed.type] == ["like", "view", "dislike", "view"]
    plain = by_rules(known, {})
    assert not np.allclose(by_types(known, {"dislike": -2.0}), plain, atol=1e-3)


def test_similarities_are_shrunk_cosines_of_the_largest() -> None:
    known = known_of([[0, 1], [0, 1, 2], [0], [2, 3]], 5)
    similar = similarities(known, 2.0, 10)
    assert similar[0, 1] == pytest.approx(2 / (np.sqrt(3 * 2) + 2))
    assert similar[0, 2] == pytest.approx(1 / (np.sqrt(3 * 2) + 2))
    assert similar[0, 3] == 0
    assert (np.diag(similar) == 0).all()
    assert (similar[4] == 0).all()
    nearest = similarities(known, 2.0, 1)
    assert nearest[0].nonzero()[0].tolist() == [1]


def test_item_knn_sums_weighted_similarities() -> None:
    known = known_of([[0, 1], [0, 1, 2], [0], [2, 3], []], 5)
    settings = {"shrink": 0.0, "neighbours": 10, "half_life_events": 1.0}
    scores = item_knn(known, settings)
    similar = similarities(known, 0.0, 10)
    assert scores[0] == pytest.approx(0.5 * similar[0] + similar[1])
    assert np.isneginf(scores[4]).all()


def test_popularity_counts_users() -> None:
    assert popularity(known_of([[0, 1], [0], []], 3), {}).tolist() == [[2, 1, 0]] * 3


def test_recent_popularity_halves_with_time() -> None:
    known = known_of([[0, 1, 2], [1]], 4)
    known.columns.time_us[:] = np.array([0, 1, 2, 2]) * 86_400_000_000
    scores = recent_popularity(known, {"half_life_days": 1.0})
    assert scores[0] == pytest.approx([0.25, 0.5 + 1.0, 1.0, 0.0])


def test_standard_scores_have_mean_zero_and_spread_one() -> None:
    known = known_of([[0], [1]], 5)
    scores = np.array([[9, 1, 2, 3, -np.inf], [-np.inf] * 5], np.float32)
    found = standard(scores, known)
    assert found[0, 1:4].mean() == pytest.approx(0.0)
    assert found[0, 1:4].std() == pytest.approx(1.0)
    assert found[0, 4] == pytest.approx(found[0, 1])
    assert (found[1] == 0).all()


def test_blends_give_popularity_to_cold_users_only() -> None:
    known = known_of([[0, 1], [0, 1], [0, 2], []], 5, vectors=unit_vectors(5))
    settings = {"share": 0.2, "text_half_life_events": 1.0, "shrink": 0.0, "neighbours": 9, "half_life_events": 1.0}
    settings |= {"half_life_days": 1e6}
    for blend in (with_popularity, all_three):
        cold = blend(known, {**settings, "prior": 1.0})[3]
        assert np.argsort(-cold, kind="stable")[:2].tolist() == [0, 1]
    assert np.isneginf(log_and_text(known, settings)[3]).all()
    own = standard(by_rules(known, {"half_life_events": 1.0}), known)[0]
    nearly = with_popularity(known, {**settings, "prior": 1e-9})[0]
    assert nearly == pytest.approx(own, abs=1e-5)


def test_the_best_settings_on_validation_are_chosen_on_top_of_the_base() -> None:
    known = known_of([[0], [1]], 4)
    known.part.targets[:, 3] = True

    def score(of: Known, settings: Settings) -> Vectors:
        scores = np.zeros((2, 4), np.float32)
        scores[:, settings["first"]] = 1.0
        return scores

    system = System(name="b", kind="log", score=score, base="a", grid=({"first": 2}, {"first": 3}))
    settings, tried = choose(system, [known], {"a": {"kept": 7}})
    assert settings == {"kept": 7, "first": 3}
    assert tried[1]["ndcg@10"] == 1.0
    assert tried[0]["ndcg@10"] < 1.0
