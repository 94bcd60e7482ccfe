"""Transitions and neighbours: their matrices against plain loops and the dense closed form."""

from __future__ import annotations

import numpy as np
import pytest

from recserve_export.training.base import Learned, TrainingLog
from recserve_export.training.registry import train
from recserve_server_ext.common.arrays import Floats
from support.training_logs import log_of


def dense(learned: Learned) -> Floats:
    matrix = learned.matrix
    assert matrix is not None
    found = np.zeros((matrix.items, matrix.items))
    found[np.repeat(np.arange(matrix.items), np.diff(matrix.offsets)), matrix.columns] = matrix.weights
    return found


def windows(log: TrainingLog, half_life: float, window: int) -> tuple[Floats, Floats]:
    """Decayed histories and the items that follow, one interaction after the other."""
    histories, nexts = [], []
    for place in range(len(log.item)):
        history = np.zeros(len(log.items))
        for lag in range(1, window + 1):
            if place - lag >= 0 and log.user[place - lag] == log.user[place]:
                history[log.item[place - lag]] += 2.0 ** (-(lag - 1) / half_life)
        if history.any():
            histories.append(history)
            nexts.append(np.eye(len(log.items))[log.item[place]])
    return np.array(histories), np.array(nexts)


@pytest.fixture
def log() -> TrainingLog:
    return log_of(30, 20, 300)


def test_the_regression_is_the_closed_form(log: TrainingLog) -> None:
    x, y = windows(log, 2.0, 5)
    expected = np.linalg.solve(x.T @ x + 3.0 * np.eye(20), x.T @ y)
    np.fill_diagonal(expected, 0.0)
    found = train("transitions", log, None, {"l2": 3.0, "half_life": 2.0, "window": 5})
    np.testing.assert_allclose(dense(found), np.maximum(expected, 0.0), atol=1e-5)


def test_only_the_largest_weights_are_kept(log: TrainingLog) -> None:
    everything = dense(train("transitions", log, None, {"l2": 3.0}))
    few = dense(train("transitions", log, None, {"l2": 3.0, "most": 2}))
    assert (np.count_nonzero(few, axis=1) <= 2).all()
    for row in range(20):
        largest = np.sort(everything[row])[::-1][:2]
        np.testing.assert_allclose(np.sort(few[row])[::-1][:2], largest, atol=1e-6)


def test_rare_items_are_regressed_one_by_one(log: TrainingLog) -> None:
    x, y = windows(log, 4.0, 20)
    frequent = np.sort(np.argsort(-log.counts, kind="stable")[:6])
    alone = (x.T @ y) / ((x**2).sum(axis=0)[:, None] + 3.0)
    own = x[:, frequent]
    alone[np.ix_(frequent, frequent)] = np.linalg.solve(own.T @ own + 3.0 * np.eye(6), (own.T @ y)[:, frequent])
    np.fill_diagonal(alone, 0.0)
    found = train("transitions", log, None, {"l2": 3.0, "exact_items": 6})
    np.testing.assert_allclose(dense(found), np.maximum(alone, 0.0), atol=1e-5)


@pytest.mark.parametrize("at_once", [1, 10**9])
def test_neighbours_are_cosines_over_the_whole_log(
    log: TrainingLog, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recserve_export.training.item_knn._AT_ONCE", at_once)
    seen = log.seen.toarray().astype(np.float64)
    common, counts = seen.T @ seen, seen.sum(axis=0)
    expected = common / (np.sqrt(np.outer(counts, counts)) + 2.0)
    np.fill_diagonal(expected, 0.0)
    found = train("item_knn", log, None, {"shrink": 2.0})
    np.testing.assert_allclose(dense(found), expected, atol=1e-6)


def test_the_newest_items_of_a_user_count(log: TrainingLog) -> None:
    found = train("item_knn", log, None, {"shrink": 0.0, "most_of_user": 2})
    pairs = set()
    for user in range(log.users):
        pairs.add(frozenset(log.item[log.user == user][-2:].tolist()))
    row, column = np.nonzero(dense(found))
    assert {frozenset(pair) for pair in zip(row.tolist(), column.tolist(), strict=True)} == {
        pair for pair in pairs if len(pair) == 2
    }
