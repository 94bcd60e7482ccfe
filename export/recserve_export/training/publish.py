"""`recserve train`: reads the log, trains, and publishes what was learned in the home."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from recserve_export.errors import TrainingError
from recserve_export.stages import Stage, silent
from recserve_export.training.base import Learned, TrainingLog, Work, check_trainable, training_log
from recserve_export.training.registry import TRAINERS, settings_of, trainer_of
from recserve_export.training.store_log import check_memory, read_log
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.index.snapshot import SnapshotVectors, current, published, published_encoder
from recserve_server_ext.index.trained import publish_matrix, publish_space
from recserve_server_ext.interactions.store import InteractionStore

#: Name on the command line for all trainings that are worth serving.
ALL = "all"


class Published(NamedTuple):
    """A training that was published.

    Attributes:
        name: Name of the training.
        folder: Version in the home.
        size: What was learned, in words.
        seconds: Duration.
    """

    name: str
    folder: Path
    size: str
    seconds: float


class Range(NamedTuple):
    """A range of time in UTC; `None` where it has no such end."""

    since: datetime | None = None
    until: datetime | None = None


def names_of(name: str) -> list[str]:
    """The trainings of a name on the command line; raises TrainingError for an unknown one."""
    if name == ALL:
        return [known for known, trainer in TRAINERS.items() if trainer.is_for_all]
    trainer_of(name)
    return [name]


def train_home(
    workspace: Workspace,
    names: Sequence[str],
    place: Path | str,
    rules: HistoryRules,
    settings: Mapping[str, Mapping[str, Any]],
    span: Range | None = None,
    *,
    stage: Stage = silent,
) -> list[Published]:
    """Train on the log of a home and publish; the next index build takes over what was learned.

    Args:
        workspace: The home.
        names: Trainings.
        place: The interaction store.
        rules: How interactions become weights.
        settings: Settings of each training, by name.
        span: Interactions that are read; `None` for all.
        stage: Shows progress.

    Raises:
        TrainingError: A setting is wrong, there is nothing to train on, or it does not fit into memory.
        ServerError: The store or the published snapshot cannot be read.
    """
    span = span or Range()
    prepared = {name: settings_of(name, settings.get(name, {})) for name in names}
    if isinstance(place, Path) and not place.exists():
        raise TrainingError(f"there is nothing to train on: no {place}; run: recserve interactions import FILE")
    with InteractionStore(place) as store:
        read = read_log(store, *span, stage=stage)
    log = training_log(read.columns, rules)
    check_trainable(log)
    text = text_vectors(workspace, log.items)
    made_from = {
        "log": {"number": read.number, "revision": read.revision, "interactions": len(log.item), "users": log.users},
        "since": span.since and span.since.isoformat(),
        "until": span.until and span.until.isoformat(),
        "rules": rules.version,
        "snapshot": published(workspace.snapshots),
    }
    for name, own in prepared.items():
        check_memory(trainer_of(name).needed_bytes(log, own), f"the training {name!r}")
    done = []
    for name, own in prepared.items():
        start = time.perf_counter()
        with stage(f"train {name}", None) as advance:
            learned = trainer_of(name).work(log, text, own, Work(advance, workspace.spaces / name))
        seconds = time.perf_counter() - start
        more = {"settings": msgspec.to_builtins(own), "figures": {**learned.figures, "seconds": round(seconds, 2)}}
        folder = publish(workspace.spaces, name, log, learned, {**made_from, **more})
        done.append(Published(name, folder, _size(learned), seconds))
    return done


def publish(spaces: Path, name: str, log: TrainingLog, learned: Learned, made_from: Mapping[str, Any]) -> Path:
    """Publish what was learned of the items of a log; the folder of the version."""
    if learned.matrix is not None:
        return publish_matrix(spaces, name, log.items, learned.matrix, made_from=made_from)
    assert learned.vectors is not None
    return publish_space(
        spaces,
        name,
        [log.items[item] for item in learned.items.tolist()],
        learned.vectors,
        inputs=learned.inputs,
        text_map=learned.text_map,
        parameters=learned.parameters,
        network=learned.network,
        made_from=made_from,
    )


def text_vectors(workspace: Workspace, items: Sequence[str]) -> Vectors | None:
    """[items, dim] text vectors in the published index, zeros for items that it lacks; `None` without an index."""
    encoder = published_encoder(workspace.snapshots)
    if not encoder:
        return None
    stored = SnapshotVectors.load(current(workspace.snapshots), encoder=encoder)
    rows = np.array([stored.row_of.get(item, -1) for item in items], np.int64)
    vectors: Vectors = np.where((rows >= 0)[:, None], stored.vectors[rows], np.float32(0.0))
    return vectors


def _size(learned: Learned) -> str:
    if learned.matrix is not None:
        return f"{len(learned.matrix.columns):,} weights between {learned.matrix.items:,} items"
    assert learned.vectors is not None
    return f"{len(learned.vectors):,} items, {learned.vectors.shape[1]} dimensions"
