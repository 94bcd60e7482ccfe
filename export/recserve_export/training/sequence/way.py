"""The three ways to train a network over histories: go on from an earlier version, on a cluster, or in this process."""

from __future__ import annotations

from typing import TypeVar

from recserve_export.training.base import TrainingLog, Work
from recserve_export.training.sequence.checkpoint import Checkpoint
from recserve_export.training.sequence.fit import Fitted, HistoryTraining, fit, go_on
from recserve_export.training.sequence.on_ray import fit_on_ray
from recserve_export.training.sequence.settings import HistoryNetworkSettings
from recserve_server_ext.common.arrays import Ints

T = TypeVar("T", bound=HistoryTraining)


def fitted(
    kind: type[T], log: TrainingLog, items: Ints, settings: HistoryNetworkSettings, work: Work, checkpoint: Checkpoint
) -> Fitted[T]:
    """Train in the way that the work and the settings ask for; only in this process are there checkpoints.

    Raises:
        TrainingError: The cluster cannot be used.
    """
    if work.before is not None:
        return go_on(kind(log, items, settings, earlier=work.before), settings.more_epochs)
    if settings.workers > 1:
        return fit_on_ray(kind, log, items, settings)
    return fit(kind, log, items, settings, checkpoint, work.done)
