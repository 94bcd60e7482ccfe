"""Systems of the offline evaluation: baselines by hand, and strategies as they are served."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from recserve_benchmarks.evaluation.baselines import plain_mean, popularity
from recserve_benchmarks.evaluation.ranking import Known, ranked
from recserve_benchmarks.evaluation.run import choose
from recserve_benchmarks.evaluation.served import by_strategy, systems
from recserve_benchmarks.evaluation.system import Settings, System
from recserve_client.contract import Slate
from recserve_server_ext.catalogue.view import view_over
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.config.server import Limits
from recserve_server_ext.index.engines.exact import ExactEngine
from support.known_log import known_of
from support.service import Service

DIM = 16


def unit_vectors(items: int, seed: int = 1) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(items, DIM))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def served(vectors: Vectors, histories: Sequence[list[int]]) -> list[Slate]:
    """What the model `recommend` answers to these histories."""
    service = Service(view_over(vectors, ExactEngine(vectors)).snapshot, Limits())
    return [service.ask(history=[{"item": f"i{item}"} for item in of_user], k=10) for of_user in histories]


def test_the_plain_mean_is_what_is_served_for_a_history() -> None:
    rng = np.random.default_rng(2)
    vectors = unit_vectors(150)
    histories = [rng.choice(150, size, replace=False).tolist() for size in (1, 3, 3, 8, 40)]
    known = known_of(histories, 150, vectors=vectors)
    scores = plain_mean(known, {})
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
    scores = plain_mean(known_of([[0, 1], [], [4]], 6, vectors=vectors), {})
    assert np.isneginf(scores[:, 4]).all()
    assert np.isneginf(scores[1:]).all()
    assert np.isfinite(scores[0, [0, 1, 2, 3, 5]]).all()


def test_popularity_counts_users() -> None:
    assert popularity(known_of([[0, 1], [0], []], 3), {}).tolist() == [[2, 1, 0]] * 3


def test_every_registered_strategy_that_can_answer_is_a_system() -> None:
    known = known_of([[0, 1, 2], [3]], 8, vectors=unit_vectors(8))
    found = {system.name: system for system in systems()}
    assert {"text", "popular", "item_knn", "blend"} <= set(found)
    assert "fusion" not in found  # it has no parts until a request names some
    for system in found.values():
        for settings in system.grid:
            assert system.score(known, settings).shape == (2, 8)


def test_a_strategy_ranks_what_its_slate_holds() -> None:
    # Whoever turned to 0 also turned to 1.
    known = known_of([[0, 1]] * 3 + [[0, 1, 2]] * 2 + [[0], [3, 4]], 6)
    scores = by_strategy("item_knn", known, {"half_life": 1e6})
    rankings = ranked(scores, known, 3)
    # 0 has no more neighbours: the slate is filled up with what is popular.
    assert rankings[5].tolist() == [1, 2, 3]


def test_users_of_whom_nothing_is_known_get_what_is_popular() -> None:
    known = known_of([[0, 1], [0], [0, 2], []], 4)
    rankings = ranked(by_strategy("text", known, {}), known, 1)
    assert rankings[3].tolist() == [0]


def test_the_best_settings_on_validation_are_chosen() -> None:
    known = known_of([[0], [1]], 4)
    known.part.targets[:, 3] = True

    def score(of: Known, settings: Settings) -> Vectors:
        scores = np.zeros((2, 4), np.float32)
        scores[:, settings["first"]] = 1.0
        return scores

    system = System(name="b", kind="strategy", score=score, grid=({"first": 2}, {"first": 3}))
    settings, tried = choose(system, [known])
    assert settings == {"first": 3}
    assert tried[1]["ndcg@10"] == 1.0
    assert tried[0]["ndcg@10"] < 1.0
