"""The trainings by name; a training is one file, and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from recserve_client.contract import nearest
from recserve_export.errors import TrainingError
from recserve_export.training.base import Learned, Trainer, TrainingLog, check_trainable
from recserve_export.training.generate.trainer import GenerateTrainer
from recserve_export.training.item_knn import ItemKnnTrainer
from recserve_export.training.ranking.ranker import RankerTrainer
from recserve_export.training.sequence.trainer import SequenceTrainer
from recserve_export.training.spaces.als import AlsTrainer
from recserve_export.training.spaces.ease import EaseTrainer
from recserve_export.training.spaces.item2vec import Item2VecTrainer
from recserve_export.training.spaces.text_head import TextHeadTrainer
from recserve_export.training.transitions import TransitionsTrainer
from recserve_export.training.user_knn import UserKnnTrainer
from recserve_server_ext.common.arrays import Vectors

_PLAIN: Final[Mapping[str, Trainer]] = {
    "als": AlsTrainer(),
    "ease": EaseTrainer(),
    "generate": GenerateTrainer(),
    "item2vec": Item2VecTrainer(),
    "item_knn": ItemKnnTrainer(),
    "sequence": SequenceTrainer(),
    "text_head": TextHeadTrainer(),
    "transitions": TransitionsTrainer(),
    "user_knn": UserKnnTrainer(),
}
#: By name; the ranker trains others first.
TRAINERS: Final[Mapping[str, Trainer]] = {**_PLAIN, "ranker": RankerTrainer(_PLAIN)}


def trainer_of(name: str) -> Trainer:
    """The training with a name; raises TrainingError for an unknown one."""
    found = TRAINERS.get(name)
    if found is None:
        raise TrainingError(
            f"there is no training {name!r}{nearest(name, tuple(TRAINERS))}; there are: {', '.join(TRAINERS)}"
        )
    return found


def train(name: str, log: TrainingLog, text: Vectors | None, settings: Mapping[str, Any] | None = None) -> Learned:
    """Train by name, in memory.

    Args:
        name: Name of the training.
        log: What users did.
        text: [items, dim] text vectors of the log's items; `None` without.
        settings: Settings by name; those that are left out have their defaults.

    Raises:
        TrainingError: There is no such training, a setting is wrong, or there is nothing to train on.
    """
    trainer = trainer_of(name)
    check_trainable(log)
    return trainer.train(log, text, settings_of(name, settings or {}))


def settings_of(name: str, given: Mapping[str, Any]) -> Any:
    """Validated settings of a training; raises TrainingError for wrong ones."""
    try:
        return msgspec.convert(dict(given), trainer_of(name).Settings)
    except msgspec.ValidationError as error:
        raise TrainingError(f"settings of the training {name!r}: {error}") from None
