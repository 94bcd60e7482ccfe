"""Workers that train one network together take the steps that one process takes."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch

from recserve_export.training.base import TrainingLog
from recserve_export.training.registry import settings_of
from recserve_export.training.sequence.checkpoint import Checkpoint
from recserve_export.training.sequence.fit import SequenceTraining, fit
from recserve_export.training.sequence.group import ALONE, Group
from support.training_logs import log_of

WORKERS = 3


class Shared:
    """What the threads of a group add up."""

    def __init__(self) -> None:
        self.barrier, self.given = threading.Barrier(WORKERS), dict[int, torch.Tensor]()


class ThreadGroup(Group):
    """Workers that are threads of this process."""

    def __init__(self, rank: int, shared: Shared) -> None:
        super().__init__(rank, WORKERS)
        self._shared = shared

    def _all(self, values: torch.Tensor) -> torch.Tensor:
        self._shared.given[self.rank] = values
        self._shared.barrier.wait(60)
        total = torch.stack([self._shared.given[rank] for rank in range(WORKERS)]).sum(0)
        self._shared.barrier.wait(60)
        return total


class OneAtATime(SequenceTraining):
    """First values are drawn from the random numbers of the process, which threads share."""

    lock = threading.Lock()

    def __init__(self, *given: Any, **more: Any) -> None:
        with self.lock:
            super().__init__(*given, **more)


def test_workers_take_the_steps_of_one_process() -> None:
    log: TrainingLog = log_of(40, 30, 800)
    # Without dropout no worker draws numbers. The last batch is too small for all of them.
    settings = settings_of(
        "sequence", {"dim": 16, "length": 8, "layers": 1, "epochs": 3, "held_out": 0.2, "dropout": 0.0, "batch": 30}
    )
    items = np.flatnonzero(log.counts)
    whole = fit(SequenceTraining, log, items, settings, Checkpoint(None, log, settings))
    shared, found = Shared(), {}

    def work(rank: int) -> None:
        group = ThreadGroup(rank, shared)
        found[rank] = fit(OneAtATime, log, items, settings, Checkpoint(None, log, settings), group=group)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rank in range(WORKERS):
        assert found[rank].epochs == whole.epochs
        assert found[rank].losses == found[0].losses
        np.testing.assert_array_equal(found[rank].training.vectors(), found[0].training.vectors())
        np.testing.assert_allclose(found[rank].training.vectors(), whole.training.vectors(), atol=2e-3)
    np.testing.assert_allclose(found[0].losses, whole.losses, atol=2e-3)


def test_one_process_changes_nothing() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    ALONE.add_up([parameter])
    assert parameter.grad is None
    assert ALONE.total(7) == 7
    assert ALONE.agreed(0.25) == 0.25
