"""`sequence` and `generate` by two workers of Ray Train: what one process learns, and the same again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from recserve_export.training.base import Learned, TrainingLog
from recserve_export.training.registry import train
from recserve_server_ext.common.arrays import Vectors
from support.training_logs import log_from

USERS, ITEMS, STEPS = 60, 20, 12
#: Without dropout the shares of a step add up to what one process computes.
SMALL: dict[str, Any] = {
    "dim": 16, "length": 8, "layers": 1, "rate": 0.01, "epochs": 4, "held_out": 0.2, "dropout": 0.0, "batch": 16,
}  # fmt: skip


def in_a_circle() -> TrainingLog:
    """Users who go from item to item in one order."""
    user = np.repeat(np.arange(USERS), STEPS)
    item = (user * 7 + np.tile(np.arange(STEPS), USERS)) % ITEMS
    return replace(log_from(user, item, USERS, ITEMS), time_us=np.tile(np.arange(STEPS), USERS) * 10_000_000)


def vectors_of(learned: Learned) -> Vectors:
    found = learned.vectors if learned.inputs is None else learned.inputs
    assert found is not None
    return found


def near(one: Learned, other: Learned) -> None:
    assert one.figures["epochs"] == other.figures["epochs"]
    np.testing.assert_allclose(one.figures["held_out_losses"], other.figures["held_out_losses"], atol=0.01)
    np.testing.assert_allclose(vectors_of(one), vectors_of(other), atol=0.01)


def test_two_workers_learn_what_one_process_does_and_the_same_again() -> None:
    pytest.importorskip("ray.train")
    log = in_a_circle()
    two, again = (train("sequence", log, None, {**SMALL, "workers": 2}) for _ in range(2))
    assert two.network == again.network
    np.testing.assert_array_equal(vectors_of(two), vectors_of(again))
    near(two, train("sequence", log, None, SMALL))


def test_two_workers_learn_to_generate() -> None:
    pytest.importorskip("ray.train")
    log, settings = in_a_circle(), {**SMALL, "codes": 4, "levels": 2}
    near(train("generate", log, None, {**settings, "workers": 2}), train("generate", log, None, settings))
