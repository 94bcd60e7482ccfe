"""`recserve train all` killed at 20 random moments: nothing is published by halves, and it ends all the same."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from recserve_export.training.publish import names_of
from support.crowds import crowd, make_crowd_home, opened, record
from support.training_kills import LONG_S, check_whole, kill_when, train_all

KILLS = 20


@pytest.mark.timeout(1800)  # a kill every few seconds, more where the cores do other work
def test_a_training_is_killed_at_random_moments(tmp_path: Path) -> None:
    workspace, random = make_crowd_home(tmp_path), np.random.default_rng(5)
    start = time.monotonic()
    assert train_all(tmp_path).wait(LONG_S) == 0
    took_s, killed, number = time.monotonic() - start, 0, 0
    before = check_whole(workspace)
    # One that ended before its moment counts for nothing.
    while killed < KILLS:
        with opened(workspace) as store:
            record(store, crowd(day=29 - number % 30, each=2))
        # Each goes on where the last one was killed, so that moments this early come to all of it.
        until = time.monotonic() + random.uniform(0.1, 0.6) * took_s
        killed += kill_when(train_all(tmp_path), lambda until=until: time.monotonic() >= until)  # type: ignore[misc]
        number += 1
        assert set(check_whole(workspace)) == set(before)
    assert train_all(tmp_path).wait(LONG_S) == 0
    assert sorted(check_whole(workspace)) == sorted(names_of("all"))
    assert not list(workspace.spaces.glob("*/.*.tmp"))
