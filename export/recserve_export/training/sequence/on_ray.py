"""Trains a network over histories on a Ray cluster: workers of Ray Train that add up their gradients."""

from __future__ import annotations

import logging
import os
import tempfile
from typing import Any, TypeVar

from recserve_export.errors import TrainingError
from recserve_export.one_thread import one_thread
from recserve_export.training.base import TrainingLog
from recserve_export.training.sequence.checkpoint import Checkpoint
from recserve_export.training.sequence.fit import Fitted, HistoryTraining, fit
from recserve_export.training.sequence.group import Group
from recserve_export.training.sequence.settings import HistoryNetworkSettings
from recserve_server_ext.common.arrays import Ints

T = TypeVar("T", bound=HistoryTraining)


def fit_on_ray(kind: type[T], log: TrainingLog, items: Ints, settings: HistoryNetworkSettings) -> Fitted[T]:
    """What `fit` gives, by `settings.workers` workers of the cluster at RAY_ADDRESS, or of one that is started here.

    All nodes need this package. There are no checkpoints: a training that loses a worker has failed.

    Raises:
        TrainingError: Ray is not installed, or gives up.
    """
    # A worker of Ray Train has one log, whatever the network is.
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    try:
        import ray
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
        from ray.util.queue import Queue
    except ModuleNotFoundError as error:
        raise TrainingError(f"Ray Train needs the module {error.name!r}: pip install 'recserve[train,ray]'") from error
    local: dict[str, Any] = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": settings.workers + 1}
    ray.init(log_to_driver=False, logging_level=logging.ERROR, **local)
    try:
        with tempfile.TemporaryDirectory() as aside:
            found = Queue(maxsize=1, actor_options={"num_cpus": 0})
            asked = {"asked": ray.put((kind, log, items, settings)), "found": found}
            trainer = TorchTrainer(
                _work,
                train_loop_config=asked,
                scaling_config=ScalingConfig(num_workers=settings.workers, resources_per_worker={"CPU": 1}),
                torch_config=TorchConfig(backend="gloo"),
                run_config=RunConfig(storage_path=aside, name="recserve"),
            )
            trainer.fit()
            state, losses, epochs = found.get(timeout=60)
    except (ray.exceptions.RayError, RuntimeError) as error:
        raise TrainingError(f"Ray gave up: {str(error).strip().splitlines()[-1]}") from error
    finally:
        ray.shutdown()
    training = kind(log, items, settings, state=state)
    for module in training.modules.values():
        module.eval()
    return Fitted(training, losses, epochs)


def _work(asked: dict[str, Any]) -> None:
    """What each worker does."""
    import ray
    import ray.train

    kind, log, items, settings = ray.get(asked["asked"])
    context = ray.train.get_context()
    group = Group(context.get_world_rank(), context.get_world_size())
    with one_thread():
        fitted = fit(kind, log, items, settings, Checkpoint(None, log, settings), group=group)
    if group.rank == 0:
        asked["found"].put((fitted.training.state(), fitted.losses, fitted.epochs))
