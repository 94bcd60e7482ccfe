"""What is held out is in no pair, and questions count what they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from recserve_export.errors import TrainingError
from recserve_export.training.base import TrainingLog
from recserve_export.training.encoder import proof
from recserve_export.training.encoder.sentences import sentence_pairs
from recserve_export.training.encoder.split import ItemSpace, Question, Split, split
from recserve_export.training.pairs import OF_USER, Pairs
from support.training_logs import log_from, log_of

ITEMS, USERS = 60, 50


def whole() -> tuple[TrainingLog, Split]:
    log = log_of(USERS, ITEMS, 900)
    return log, split(log, np.arange(ITEMS) != 3, 0.1, 0)


def test_held_out_items_users_and_last_items_are_not_trained_on() -> None:
    log, found = whole()
    held = found.cold | found.look.candidates
    assert (
        found.cold.sum()
        == found.look.candidates.sum()
        == round(0.1 * np.count_nonzero(log.counts * (np.arange(ITEMS) != 3)))
    )
    assert not (found.cold & found.look.candidates).any()
    assert not held[found.train.item].any()
    assert 3 not in found.train.item  # it has no text
    assert len(set(found.train.user.tolist())) <= 0.9 * USERS
    last = {user: log.time_us[log.user == user].max() for user in range(USERS)}
    assert all(
        time < last[user] for user, time in zip(found.train.user.tolist(), found.train.time_us.tolist(), strict=True)
    )
    pairs = Pairs(found.train, np.arange(ITEMS), 3)
    assert pairs.share[held].sum() == 0


def test_a_question_never_shows_its_answer() -> None:
    for question in (*whole()[1].questions.values(), whole()[1].look):
        shown = (question.histories != 0).toarray() & question.targets.toarray()
        assert not shown.any()
        assert question.users > 0


def test_the_same_seed_holds_out_the_same() -> None:
    log = log_of(USERS, ITEMS, 900)
    one, same, other = (split(log, np.ones(ITEMS, np.bool_), 0.1, seed).cold for seed in (0, 0, 1))
    assert one.tolist() == same.tolist() != other.tolist()


@pytest.mark.parametrize("log", [log_from(np.arange(5), np.zeros(5, np.int64), 5, 2), log_of(3, 8, 6)])
def test_a_log_that_is_too_small_is_refused(log: TrainingLog) -> None:
    with pytest.raises(TrainingError, match="nothing is left to train on"):
        split(log, np.ones(len(log.items), np.bool_), 0.1, 0)


def test_ndcg_of_a_question_by_hand() -> None:
    vectors = np.eye(4, dtype=np.float32)
    vectors[1] = [0.8, 0.6, 0, 0]
    histories = sparse.csr_array(np.array([[1.0, 0, 0, 0]], np.float32))
    known = sparse.csr_array(np.array([[True, False, False, False]]))
    able = np.array([True, True, True, False])
    first = Question(histories, sparse.csr_array(np.array([[False, True, False, False]])), able, known)
    assert first.ndcg(vectors).tolist() == [1.0]
    second = Question(histories, sparse.csr_array(np.array([[False, False, True, False]])), able, known)
    assert second.ndcg(vectors) == pytest.approx([1 / np.log2(3)])
    assert second.ndcg_for_everybody(np.array([9.0, 1.0, 2.0, 3.0])).tolist() == [1.0]
    # What may not be recommended is no gain, also where the list is longer than there are candidates.
    third = Question(histories, sparse.csr_array(np.array([[True, False, False, True]])), able, known)
    assert third.ndcg(vectors).tolist() == [0.0]


def test_ndcg_of_a_fusion_by_hand() -> None:
    one, other = (
        ItemSpace(np.array([[s] for s in scores], np.float32), np.eye(5, 1, dtype=np.float32))
        for scores in ([100.0, 80.0, 90.0, 0.0, 0.0], [1.0, 0.9, 0.0, 0.0, 0.2])
    )
    histories = sparse.csr_array(np.array([[2.0, 0, 0, 0, 0]], np.float32))
    target = sparse.csr_array(np.array([[False, True, False, False, False]]))
    known = sparse.csr_array(np.array([[True, False, False, False, False]]))
    question = Question(histories, target, np.ones(5, np.bool_), known)
    # The first space has item 2 before item 1; the second one, a hundredth as long, counts as much when standardised.
    assert question.ndcg_of_fusion([one]) == pytest.approx([1 / np.log2(3)])
    assert question.ndcg_of_fusion([one, other]).tolist() == [1.0]
    nothing = sparse.csr_array(np.array([[False, False, False, True, False]]))
    assert Question(histories, nothing, np.ones(5, np.bool_), known).ndcg_of_fusion([one, other]).tolist() == [0.0]


def test_a_question_within_a_bound_is_put_to_the_first_users() -> None:
    look = whole()[1].look
    assert look.within(10_000) is look
    few = look.within(20)
    assert 0 < few.users < look.users
    assert len(np.unique(few.histories.indices)) <= 20
    assert len(np.unique(look.histories[: few.users + 1].indices)) > 20
    assert few.items.sum() <= 20 + look.candidates.sum()
    vectors = np.random.default_rng(0).normal(size=(ITEMS, 8)).astype(np.float32)
    np.testing.assert_allclose(few.ndcg(np.where(few.items[:, None], vectors, 0)), look.ndcg(vectors)[: few.users])


def test_one_user_makes_a_bounded_number_of_pairs() -> None:
    random = np.random.default_rng(0)
    user = np.concatenate([np.zeros(100_000, np.int64), np.repeat(np.arange(1, 200), 8)])
    pairs = Pairs(log_from(user, random.integers(ITEMS, size=len(user)), 200, ITEMS), np.arange(ITEMS), 3)
    assert pairs.count <= 3 * OF_USER + 199 * 3 * 8


def test_unrelated_sentences_are_the_same_each_time() -> None:
    pairs = sentence_pairs()
    assert pairs == sentence_pairs()
    assert len(pairs) == 2000
    assert all(one != other for one, other in pairs)
    assert len({sentence for pair in pairs for sentence in pair}) > 1000


def test_popularity_does_not_know_cold_items_by_their_order() -> None:
    _, found = whole()
    cold = np.flatnonzero(found.cold)
    nobody = sparse.csr_array((1, ITEMS), dtype=np.float32)
    by_target = []
    for item in cold.tolist():
        target = sparse.csr_array(([True], ([0], [item])), (1, ITEMS))
        asked = found._replace(questions={"cold": Question(nobody, target, found.cold, nobody > 0)})
        by_target.append(proof.controls(asked, np.eye(ITEMS, 4, dtype=np.float32))["popularity"]["cold"])
    # Each place once, and not in the order of the log, in which items come first that have many users.
    assert sorted(by_target, reverse=True) == pytest.approx(1 / np.log2(np.arange(len(cold)) + 2))
    assert by_target != sorted(by_target, reverse=True)
