"""Trainings of strategies on the known part of a log, in memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from recserve_benchmarks.evaluation.ranking import Known
from recserve_export.errors import TrainingError
from recserve_export.index.spaces import placed
from recserve_export.training.base import Learned, TrainingLog, training_log
from recserve_export.training.registry import TRAINERS, train
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.matrix import ItemMatrix
from recserve_server_ext.index.space import EngineManifest, Space, SpaceManifest


@dataclass(frozen=True)
class Trained:
    """What trainings gave, by name.

    Attributes:
        spaces: Trained spaces, searched exactly.
        matrices: Item-to-item matrices.
        seconds: Duration of each training.
    """

    spaces: dict[str, Space] = field(default_factory=dict)
    matrices: dict[str, ItemMatrix] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def trained(known: Known, rules: HistoryRules, names: Sequence[str]) -> Trained:
    """Train on what is known; a training that finds nothing to learn from leaves its strategy without a space.

    Args:
        known: What may be known.
        rules: How interactions become weights.
        names: Names of the trainings.
    """
    found = Trained()
    if not names:
        return found
    log, text = training_log(known.columns, rules), known.vectors if known.vectors.any() else None
    for name in names:
        start = time.perf_counter()
        try:
            learned = train(name, log, text)
        except TrainingError:
            continue
        if learned.matrix is not None:
            found.matrices[name] = learned.matrix
        elif (space := _space(name, learned, log, known.vectors)) is not None:
            found.spaces[name] = space
        found.seconds[name] = time.perf_counter() - start
    return found


def _space(name: str, learned: Learned, log: TrainingLog, text: Vectors) -> Space | None:
    """A space over the items of the log, as a snapshot would hold it."""
    if learned.vectors is None or not len(learned.vectors):
        return None
    vectors, inputs, rows = placed(learned.vectors, learned.inputs, learned.items, text, learned.text_map)
    engine = ExactEngine(vectors)
    manifest = SpaceManifest(
        dim=vectors.shape[1],
        vectors=len(vectors),
        engine=EngineManifest(name=engine.name),
        parameters=learned.parameters,
    )
    return Space(
        name=name,
        manifest=manifest,
        items=len(log.items),
        vectors=vectors,
        engine=engine,
        rows=None if len(rows) == len(log.items) else rows,
        inputs=inputs,
        text_map=learned.text_map,
    )


def stand_ins() -> Trained:
    """Spaces and matrices of one item by every name: what a strategy needs to say that it lacks no training."""
    one = np.ones((1, 1), np.float32)
    manifest = SpaceManifest(dim=1, vectors=1, engine=EngineManifest(name=ExactEngine.name))
    matrix = ItemMatrix(np.zeros(2, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))
    spaces = {
        name: Space(name=name, manifest=manifest, items=1, vectors=one, engine=ExactEngine(one)) for name in TRAINERS
    }
    return Trained(spaces, dict.fromkeys(TRAINERS, matrix))
