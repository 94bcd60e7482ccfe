"""Systems of the offline evaluation: baselines by hand, and strategies as they are served."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from recserve_benchmarks.evaluation.baselines import plain_mean, popularity, predicted_popularity, recent_popularity
from recserve_benchmarks.evaluation.ranking import LENGTH, ranked
from recserve_benchmarks.evaluation.served import by_strategy, systems
from recserve_client.contract import Slate
from recserve_server_ext.catalogue.view import view_over
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.config.server import Limits
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.strategies.registry import Registry
from support.known_log import everybody, known_of
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
    scores = plain_mean(known)(everybody(known))
    rankings = ranked(scores.copy(), known, everybody(known), 10)
    slates = served(vectors, histories)
    assert len(slates) == len(histories)
    for user, slate in enumerate(slates):
        # Random vectors in 16 dimensions have no ties within float32's noise for this seed.
        assert [f"i{item}" for item in rankings[user]] == [item.id for item in slate.items]
        assert scores[user, rankings[user]] == pytest.approx([item.score for item in slate.items], abs=1e-6)


def test_items_without_a_text_and_users_without_a_history_have_no_text_score() -> None:
    vectors = unit_vectors(6)
    vectors[4] = 0.0
    known = known_of([[0, 1], [], [4]], 6, vectors=vectors)
    scores = plain_mean(known)(everybody(known))
    assert np.isneginf(scores[:, 4]).all()
    assert np.isneginf(scores[1:]).all()
    assert np.isfinite(scores[0, [0, 1, 2, 3, 5]]).all()


def test_popularity_counts_users() -> None:
    assert popularity(known_of([[0, 1], [0], []], 3))(np.arange(3)).tolist() == [[2, 1, 0]] * 3


def test_every_registered_strategy_that_can_answer_is_a_system() -> None:
    known = known_of([[0, 1, 2], [3]], 8, vectors=unit_vectors(8))
    found = {system.name: system for system in systems()}
    assert {"text", "popular", "item_knn", "blend"} <= set(found)
    assert "fusion" not in found  # it has no parts until a request names some
    for system in found.values():
        for settings in system.grid:
            assert system.fit(known, settings)(everybody(known)).shape == (2, LENGTH)


def test_a_strategy_ranks_what_its_slate_holds() -> None:
    # Whoever turned to 0 also turned to 1.
    known = known_of([[0, 1]] * 3 + [[0, 1, 2]] * 2 + [[0], [3, 4]], 6)
    rankings = by_strategy("item_knn", Registry(), known, {"half_life": 1e6})(everybody(known))
    # 0 has no more neighbours: the slate is filled up with what is popular.
    assert rankings[5, :3].tolist() == [1, 2, 3]


def test_users_of_whom_nothing_is_known_get_what_is_popular() -> None:
    known = known_of([[0, 1], [0], [0, 2], []], 4)
    rankings = by_strategy("text", Registry(), known, {})(everybody(known))
    assert rankings[3, 0] == 0


def test_rankings_of_some_users_are_those_of_all() -> None:
    rng = np.random.default_rng(4)
    histories = [rng.choice(60, size, replace=False).tolist() for size in (1, 3, 0, 8, 20)]
    known = known_of(histories, 60, vectors=unit_vectors(60))
    # Spaces learned from five users hold items of equal scores, which rounding orders.
    for system in systems(["text", "popular", "item_knn"]):
        rank = system.fit(known, system.grid[0])
        every, some = rank(everybody(known)), rank(np.array([1, 4]))
        assert every[[1, 4]].tolist() == some.tolist()


def test_recent_popularity_counts_the_last_week() -> None:
    known = known_of([[0, 1], [0, 1], [0, 2], [2]], 4)
    week_us = 7 * 86_400 * 10**6
    # Everything but the interactions with item 2 is long ago.
    known.columns.time_us[known.columns.subject != 2] -= 2 * week_us
    assert np.argsort(-recent_popularity(known)(np.zeros(1, np.int64))[0]).tolist() == [2, 0, 1, 3]


def test_popularity_is_predicted_from_text() -> None:
    vectors = unit_vectors(400)
    users = np.round(np.exp(3 + 2 * vectors[:, 0]))
    users[300:] = 0  # not learned from
    vectors[399] = 0.0
    found = predicted_popularity(vectors, users)
    assert np.isneginf(found[399])
    assert np.corrcoef(found[300:399], vectors[300:399, 0])[0, 1] > 0.95
    assert np.isneginf(predicted_popularity(vectors, np.zeros(400))).all()
