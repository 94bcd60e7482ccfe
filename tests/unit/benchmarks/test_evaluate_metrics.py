"""Metrics against plain references, rankings and their ties."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recserve_benchmarks.evaluation.metrics import ACCURACY, accuracy, beyond_accuracy, gini
from recserve_benchmarks.evaluation.ranking import ranked
from support.known_log import known_of

RNG = np.random.default_rng(3)


def plain(ranking: list[int], targets: set[int]) -> dict[str, float]:
    """Every accuracy metric of one user, by its definition."""
    found = {}
    for k in (5, 10, 20):
        places = [place for place, item in enumerate(ranking[:k], start=1) if item in targets]
        ideal = sum(1 / math.log2(1 + place) for place in range(1, min(k, len(targets)) + 1))
        found[f"hr@{k}"] = float(bool(places))
        found[f"ndcg@{k}"] = sum(1 / math.log2(1 + place) for place in places) / ideal
        found[f"mrr@{k}"] = 1 / places[0] if places else 0.0
        found[f"recall@{k}"] = len(places) / len(targets)
    return found


def test_accuracy_is_that_of_the_definitions() -> None:
    users, items = 40, 30
    rankings = RNG.permuted(np.tile(np.arange(items), (users, 1)), axis=1)[:, :20]
    targets = RNG.random((users, items)) < 0.1
    targets[:, 0] |= ~targets.any(axis=1)
    found = accuracy(rankings, targets)
    assert tuple(found) == ACCURACY
    for user in range(users):
        expected = plain(rankings[user].tolist(), set(np.flatnonzero(targets[user]).tolist()))
        # trec_eval computes in doubles too; only the order of sums may differ.
        assert {name: of[user] for name, of in found.items()} == pytest.approx(expected, abs=1e-9)


def test_users_without_targets_and_without_a_ranking_are_told_apart() -> None:
    rankings = np.array([[0, 1], [-1, -1], [2, 0]])
    targets = np.array([[False, False, False], [True, False, False], [True, False, False]])
    values = accuracy(rankings, targets, ("ndcg@5", "hr@5"))
    assert np.isnan(values["hr@5"][0])
    assert values["hr@5"][1:].tolist() == [0.0, 1.0]
    assert values["ndcg@5"][2] == pytest.approx(1 / math.log2(3))


def test_lists_are_described_as_defined() -> None:
    known = known_of([[0, 1], [0], [0, 2]], 5)
    found = beyond_accuracy(np.array([[0, 1], [0, 2], [0, -1]]), known)
    assert found["coverage"] == pytest.approx(3 / 5)
    # Item 0 is known to 3 of 3 users (0 bits), items 1 and 2 to 1 each: -log2(2 / 4) = 1 bit.
    assert found["novelty"] == pytest.approx(2 / 5)
    # By hand: counts 3, 1, 1, 0, 0 ascending with factors -4, -2, 0, 2, 4.
    assert found["gini"] == pytest.approx((0 * 1 + 2 * 1 + 4 * 3) / (5 * 5))
    # Item 0 has rank 0, items 1 and 2 share rank 1.5 of 4.
    assert found["popularity_rank"] == pytest.approx(2 * 1.5 / 4 / 5)


def test_gini_of_equal_counts_is_zero_and_of_one_item_nearly_one() -> None:
    assert gini(np.full(7, 3)) == pytest.approx(0.0)
    assert gini(np.array([0, 0, 0, 9])) == pytest.approx(3 / 4)


def test_rankings_leave_out_what_was_seen_and_what_has_no_score() -> None:
    known = known_of([[0, 1], [3]], 5)
    scores = np.array([[9, 8, 1, 3, 2], [1, -np.inf, -np.inf, 9, -np.inf]], np.float32)
    assert ranked(scores, known, 4).tolist() == [[3, 4, 2, -1], [0, -1, -1, -1]]


def test_equal_scores_are_ordered_by_the_seed_and_by_nothing_else() -> None:
    scores = np.zeros((1, 50), np.float32)
    orders = [ranked(scores, known_of([[7]], 50, seed), 50)[0].tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert sorted(orders[0][:49]) == [item for item in range(50) if item != 7]
    firsts = {ranked(scores, known_of([[7]], 50, seed), 1)[0, 0] for seed in range(30)}
    assert len(firsts) > 10
