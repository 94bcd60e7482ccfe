"""Metrics against plain references and ir-measures, rankings and their ties."""

from __future__ import annotations

import math

import ir_measures
import numpy as np
import pytest
from scipy import sparse

from recserve_benchmarks.evaluation.metrics import ACCURACY, Lists, accuracy, gini, item_kinds, restricted
from recserve_benchmarks.evaluation.ranking import ranked
from support.known_log import everybody, known_of

RNG = np.random.default_rng(3)


def plain(ranking: list[int], targets: set[int]) -> dict[str, float]:
    """Every accuracy metric of one user, by its definition."""
    found = {}
    for k in (5, 10, 20):
        places = [place for place, item in enumerate(ranking[:k], start=1) if item in targets]
        ideal = sum(1 / math.log2(1 + place) for place in range(1, min(k, len(targets)) + 1))
        found[f"hr_at_{k}"] = float(bool(places))
        found[f"ndcg_at_{k}"] = sum(1 / math.log2(1 + place) for place in places) / ideal
        found[f"mrr_at_{k}"] = 1 / places[0] if places else 0.0
        found[f"recall_at_{k}"] = len(places) / len(targets)
    return found


def test_accuracy_is_that_of_the_definitions() -> None:
    users, items = 40, 30
    rankings = RNG.permuted(np.tile(np.arange(items), (users, 1)), axis=1)[:, :20]
    targets = RNG.random((users, items)) < 0.1
    targets[:, 0] |= ~targets.any(axis=1)
    found = accuracy(rankings, sparse.csr_array(targets))
    assert tuple(found) == ACCURACY
    for user in range(users):
        expected = plain(rankings[user].tolist(), set(np.flatnonzero(targets[user]).tolist()))
        # Both compute in doubles; only the order of sums may differ.
        assert {name: of[user] for name, of in found.items()} == pytest.approx(expected, abs=1e-9)


def test_accuracy_is_that_of_ir_measures() -> None:
    users, items = 30, 50
    rankings = RNG.permuted(np.tile(np.arange(items), (users, 1)), axis=1)[:, :20]
    rankings[:5, 12:] = -1
    targets = RNG.random((users, items)) < 0.1
    targets[:, 0] |= ~targets.any(axis=1)
    qrels = {str(user): {str(item): 1 for item in np.flatnonzero(targets[user])} for user in range(users)}
    run = {
        str(user): {str(item): -float(place) for place, item in enumerate(rankings[user]) if item >= 0}
        for user in range(users)
    }
    names = {"hr": ir_measures.Success, "ndcg": ir_measures.nDCG, "mrr": ir_measures.RR, "recall": ir_measures.R}
    measures = {measure @ k: f"{name}_at_{k}" for name, measure in names.items() for k in (5, 10, 20)}
    found = accuracy(rankings, sparse.csr_array(targets))
    for metric in ir_measures.iter_calc(list(measures), qrels, run):
        assert found[measures[metric.measure]][int(metric.query_id)] == pytest.approx(metric.value, abs=1e-9)


def test_users_without_targets_and_without_a_ranking_are_told_apart() -> None:
    rankings = np.array([[0, 1], [-1, -1], [2, 0]])
    targets = np.array([[False, False, False], [True, False, False], [True, False, False]])
    values = accuracy(rankings, sparse.csr_array(targets), ("ndcg_at_5", "hr_at_5"))
    assert np.isnan(values["hr_at_5"][0])
    assert values["hr_at_5"][1:].tolist() == [0.0, 1.0]
    assert values["ndcg_at_5"][2] == pytest.approx(1 / math.log2(3))


def test_lists_are_described_as_defined() -> None:
    known = known_of([[0, 1], [0], [0, 2]], 5)
    lists = Lists(known, np.full(5, -1))
    rankings = np.array([[0, 1], [0, 2], [0, -1]])
    found = lists.of_all(rankings)
    assert found["coverage"] == pytest.approx(3 / 5)
    # Item 0 is known to 3 of 3 users (0 bits), items 1 and 2 to 1 each: -log2(2 / 4) = 1 bit.
    assert lists.of_users(rankings)["novelty"] == pytest.approx([1 / 2, 1 / 2, 0])
    # By hand: counts 3, 1, 1, 0, 0 ascending with factors -4, -2, 0, 2, 4.
    assert found["gini"] == pytest.approx((0 * 1 + 2 * 1 + 4 * 3) / (5 * 5))
    # Item 0 has rank 0, items 1 and 2 share rank 1.5 of 4.
    assert found["popularity_rank"] == pytest.approx(2 * 1.5 / 4 / 5)
    assert lists.of_all(np.full((3, 2), -1)) == {}


def test_diversity_is_the_mean_distance_of_pairs() -> None:
    vectors = RNG.normal(size=(6, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[5] = 0.0  # an item without a text does not count
    found = Lists(known_of([[0], [0]], 6, vectors=vectors), np.full(6, -1)).of_users(
        np.array([[1, 2, 3, 5], [4, 5, -1, -1]])
    )
    cosines = [float(vectors[a] @ vectors[b]) for a, b in ((1, 2), (1, 3), (2, 3))]
    assert found["diversity"][0] == pytest.approx(1 - np.mean(cosines), abs=1e-6)
    assert np.isnan(found["diversity"][1])


def test_calibration_compares_the_kinds_of_the_history_and_the_list() -> None:
    kinds = np.array([0, 0, 0, 1, 1, 1])
    found = Lists(known_of([[0, 1], [0, 3], [0], []], 6), kinds).of_users(np.array([[2, 2], [2, 4], [4, 5], [4, 5]]))[
        "calibration"
    ]
    assert found[:3] == pytest.approx([0.0, 0.0, 1.0])
    assert np.isnan(found[3])  # nothing is known of the user


def test_kinds_are_clusters_of_text_vectors() -> None:
    centres = np.eye(4, dtype=np.float32)
    group = np.repeat(np.arange(4), 10)
    vectors = centres[group] + RNG.normal(scale=0.01, size=(40, 4)).astype(np.float32)
    vectors[0] = 0.0
    kinds = item_kinds(vectors)
    assert kinds[0] == -1
    assert all(set(kinds[1:][group[1:] == a]).isdisjoint(kinds[1:][group[1:] == b]) for a in range(4) for b in range(a))
    assert item_kinds(np.zeros((3, 4), np.float32)).tolist() == [-1] * 3


def test_targets_are_restricted_to_some_items() -> None:
    targets = sparse.csr_array(np.array([[True, True, False], [False, True, False]]))
    found = restricted(targets, np.array([True, False, True]))
    assert found.toarray().tolist() == [[True, False, False], [False, False, False]]
    assert targets.nnz == 3


def test_gini_of_equal_counts_is_zero_and_of_one_item_nearly_one() -> None:
    assert gini(np.full(7, 3)) == pytest.approx(0.0)
    assert gini(np.array([0, 0, 0, 9])) == pytest.approx(3 / 4)


def test_rankings_leave_out_what_was_seen_and_what_has_no_score() -> None:
    known = known_of([[0, 1], [3]], 5)
    scores = np.array([[9, 8, 1, 3, 2], [1, -np.inf, -np.inf, 9, -np.inf]], np.float32)
    assert ranked(scores, known, everybody(known), 4).tolist() == [[3, 4, 2, -1], [0, -1, -1, -1]]


def test_equal_scores_are_ordered_by_the_seed_and_by_nothing_else() -> None:
    scores = np.zeros((1, 50), np.float32)
    orders = [
        ranked(scores.copy(), known_of([[7]], 50, seed), np.zeros(1, np.int64), 50)[0].tolist() for seed in (0, 0, 1)
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert sorted(orders[0][:49]) == [item for item in range(50) if item != 7]
    firsts = {ranked(scores.copy(), known_of([[7]], 50, seed), np.zeros(1, np.int64), 1)[0, 0] for seed in range(30)}
    assert len(firsts) > 10
