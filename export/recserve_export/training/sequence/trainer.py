"""Trains `sequence`: a transformer over the last behaviours (SASRec with gated layers), or BERT4Rec's objective."""

from __future__ import annotations

import numpy as np

from recserve_export.errors import TrainingError
from recserve_export.training.base import Learned, Trainer, TrainingLog, text_map
from recserve_export.training.sequence.settings import SequenceSettings
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.networks.network import new_network


class SequenceTrainer(Trainer):
    """Item vectors and the network that makes user vectors; one thread, so that the same log gives the same files."""

    Settings = SequenceSettings

    def train(self, log: TrainingLog, text: Vectors | None, settings: SequenceSettings) -> Learned:
        """Learn vectors of the items that somebody had to do with, the network, and a map from texts for the others."""
        if settings.dim % settings.heads:
            raise TrainingError(f"dim={settings.dim} is not a multiple of heads={settings.heads}")
        # Here, since only this training needs torch.
        import torch

        from recserve_export.training.sequence.export import to_onnx
        from recserve_export.training.sequence.fit import fit

        items, threads = np.flatnonzero(log.counts), torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            found = fit(log, items, settings)
            content = to_onnx(found.network, settings.dim)
        finally:
            torch.set_num_threads(threads)
        return Learned(
            items=items,
            vectors=found.vectors,
            text_map=text_map(text, items, found.vectors),
            network=new_network(content, settings.dim, settings.length),
            figures={"epochs": found.epochs, "held_out_losses": [round(loss, 4) for loss in found.losses]},
        )

    def needed_bytes(self, log: TrainingLog, settings: SequenceSettings) -> int:
        """Windows and near items of the log; vectors with gradients and moments; the activations of a step."""
        items = int(np.count_nonzero(log.counts))
        positions = settings.batch * settings.length
        logits = items if items <= settings.exact_items else settings.negatives
        step = (
            4 * positions * (3 * logits + settings.layers * (40 * settings.dim + 4 * settings.heads * settings.length))
        )
        return 400 * len(log.item) + 24 * items * settings.dim + step
