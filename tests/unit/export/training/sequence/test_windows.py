"""Windows of histories: every behaviour is asked for exactly once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recserve_export.training.base import TrainingLog
from recserve_export.training.sequence.windows import batches, windows_of
from support.training_logs import log_from

NEVER = np.iinfo(np.int64).max
SECOND = 1_000_000


def log_of_lengths(lengths: list[int], *, step: int = 1) -> TrainingLog:
    """Users with histories of these lengths; items are numbered through, and so are seconds."""
    user = np.repeat(np.arange(len(lengths)), lengths)
    count = len(user)
    times = np.arange(count) * step * SECOND
    return replace(log_from(user, np.arange(count), len(lengths), count), time_us=times)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("length", [2, 5, 50])
def test_each_behaviour_but_the_first_is_the_target_of_one_position(length: int, seed: int) -> None:
    lengths = [1, 2, 3, 5, 6, 7, 11, 60]
    log = log_of_lengths(lengths)
    windows = windows_of(log, np.arange(len(log.items)), length, NEVER, np.random.default_rng(seed))
    assert windows.item.shape[1] == length + 1
    targets = windows.item[:, 1:][windows.item[:, 1:] >= 0]
    firsts = np.cumsum([0, *lengths[:-1]])
    np.testing.assert_array_equal(np.sort(targets), np.setdiff1d(np.arange(len(log.items)), firsts))


def test_windows_keep_the_order_and_stay_within_a_history() -> None:
    log = log_of_lengths([4, 30, 9])
    windows = windows_of(log, np.arange(43), 5, NEVER, np.random.default_rng(0))
    for row in windows.item:
        known = row[row >= 0]
        assert (row[: len(known)] == known).all()
        assert (np.diff(known) == 1).all()
        assert len(set(log.user[known])) == 1


def test_pauses_are_seconds_since_the_behaviour_before() -> None:
    log = log_of_lengths([3, 3], step=7)
    windows = windows_of(log, np.arange(6), 5, NEVER, np.random.default_rng(0))
    np.testing.assert_array_equal(windows.pause[:, :3], [[0.0, 7.0, 7.0], [0.0, 7.0, 7.0]])


def test_the_newest_part_is_held_out() -> None:
    log = log_of_lengths([4, 4])
    windows = windows_of(log, np.arange(8), 5, 6 * SECOND, np.random.default_rng(0))
    assert sorted(windows.item[windows.held].tolist()) == [6, 7]


def test_chance_orders_what_happened_at_the_same_time() -> None:
    log = log_of_lengths([20])
    same = replace(log, time_us=np.zeros(20, np.int64))
    one, other = (windows_of(same, np.arange(20), 30, NEVER, np.random.default_rng(seed)).item for seed in (0, 1))
    assert one.tolist() != other.tolist()
    assert sorted(one[0].tolist()) == sorted(other[0].tolist())


def test_batches_have_every_window_once_and_no_empty_columns() -> None:
    log = log_of_lengths([2, 3, 9, 4, 2, 30])
    windows = windows_of(log, np.arange(50), 8, NEVER, np.random.default_rng(0))
    parts = list(batches(windows, 3, np.random.default_rng(0)))
    assert sum(len(part.item) for part in parts) == len(windows.item)
    assert all((part.item >= 0).any(axis=0).all() for part in parts)
