"""Trains `sequence`: a transformer over the last behaviours (SASRec with gated layers), or BERT4Rec's objective."""

from __future__ import annotations

from typing import Any

import numpy as np

from recserve_export.errors import TrainingError
from recserve_export.one_thread import one_thread
from recserve_export.training.base import Learned, Trainer, TrainingLog, Work, text_map
from recserve_export.training.sequence.settings import SequenceSettings
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.networks.canonical import trained_network


class SequenceTrainer(Trainer):
    """Item vectors and the network that makes user vectors; one thread, so that the same log gives the same files."""

    Settings = SequenceSettings
    is_slow = True
    goes_on = True

    def train(self, log: TrainingLog, text: Vectors | None, settings: SequenceSettings) -> Learned:
        """Learn vectors of the items that somebody had to do with, the network, and a map from texts for the others."""
        return self.work(log, text, settings, Work())

    def work(self, log: TrainingLog, text: Vectors | None, settings: SequenceSettings, work: Work) -> Learned:
        """See `train`; a checkpoint is written after each epoch."""
        if settings.dim % settings.heads:
            raise TrainingError(f"dim={settings.dim} is not a multiple of heads={settings.heads}")
        # Here, since only this training needs torch.
        from recserve_export.training.sequence.checkpoint import Checkpoint
        from recserve_export.training.sequence.export import to_onnx
        from recserve_export.training.sequence.fit import SequenceTraining
        from recserve_export.training.sequence.int8 import check_int8, to_int8
        from recserve_export.training.sequence.way import fitted

        items = np.flatnonzero(log.counts)
        checkpoint = Checkpoint(work.folder, log, settings)
        with one_thread():
            found = fitted(SequenceTraining, log, items, settings, work, checkpoint)
            content, vectors = to_onnx(found.training.network, settings.dim), found.training.vectors()
        figures: dict[str, Any] = {"epochs": found.epochs, "held_out_losses": [round(loss, 4) for loss in found.losses]}
        if settings.precision == "int8":
            fp32, content = content, to_int8(content)
            figures["int8"] = check_int8(log, items, vectors, settings.length, fp32, content)._asdict()
        checkpoint.remove()
        return Learned(
            items=items,
            vectors=vectors,
            text_map=text_map(text, items, vectors),
            network=trained_network(content, settings.dim, settings.length, settings.precision),
            figures=figures,
            found={"epochs": found.epochs, "held_out": 0.0},
            state=found.training.earlier(),
        )

    def needed_bytes(self, log: TrainingLog, settings: SequenceSettings) -> int:
        """Windows and near items of the log; vectors with gradients and moments; the activations of a step."""
        items = int(np.count_nonzero(log.counts))
        positions = settings.batch * settings.length
        logits = items if items <= settings.exact_items else settings.negatives
        layer = 40 * settings.dim + 4 * settings.heads * settings.length
        step = 4 * positions * (3 * logits + settings.layers * layer)
        return 400 * len(log.item) + 24 * items * settings.dim + step
