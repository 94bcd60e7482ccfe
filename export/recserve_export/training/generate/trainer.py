"""Trains `generate`: a network over the last behaviours, and a decoder that generates the semantic id of what follows.

S. Rajput et al., "Recommender systems with generative retrieval", NeurIPS 2023 (TIGER).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recserve_export.errors import TrainingError
from recserve_export.one_thread import one_thread
from recserve_export.training.base import Learned, Trainer, TrainingLog, Work, text_map
from recserve_export.training.generate.settings import MOST_IN_LEAF, GenerateSettings
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.networks.canonical import trained_network
from recserve_server_ext.networks.network import Decoder


class GenerateTrainer(Trainer):
    """The vectors that are quantised, those of items as behaviours, the network, and the decoder; one thread."""

    Settings = GenerateSettings
    is_for_all = False
    is_slow = True
    goes_on = True

    def train(self, log: TrainingLog, text: Vectors | None, settings: GenerateSettings) -> Learned:
        """Learn ids of the items that somebody had to do with and what generates them; see `work`."""
        return self.work(log, text, settings, Work())

    def work(self, log: TrainingLog, text: Vectors | None, settings: GenerateSettings, work: Work) -> Learned:
        """See `train`; a checkpoint is written after each epoch."""
        if settings.dim % settings.heads:
            raise TrainingError(f"dim={settings.dim} is not a multiple of heads={settings.heads}")
        # Here, since only this training and `sequence` need torch.
        from recserve_export.training.generate.export import decoder_to_onnx
        from recserve_export.training.generate.fit import DecoderTraining
        from recserve_export.training.sequence.checkpoint import Checkpoint
        from recserve_export.training.sequence.export import to_onnx
        from recserve_export.training.sequence.way import fitted

        items = np.flatnonzero(log.counts)
        checkpoint = Checkpoint(work.folder, log, settings)
        with one_thread():
            found = fitted(DecoderTraining, log, items, settings, work, checkpoint)
            training = found.training
            content = to_onnx(training.network, settings.dim)
            decoder = Decoder(decoder_to_onnx(training.decoder), training.codebooks)
        checkpoint.remove()
        vectors, inputs = training.semantic, training.vectors()
        figures: dict[str, Any] = {"epochs": found.epochs, "held_out_losses": [round(loss, 4) for loss in found.losses]}
        return Learned(
            items=items,
            vectors=vectors,
            inputs=inputs,
            text_map=text_map(text, items, np.hstack([vectors, inputs])),
            network=trained_network(content, settings.dim, settings.length, decoder=decoder),
            figures=figures,
            found={"epochs": found.epochs, "held_out": 0.0},
            state=training.earlier(),
        )

    def needed_bytes(self, log: TrainingLog, settings: GenerateSettings) -> int:
        """Windows and near items of the log; vectors with gradients and moments; the activations of a step."""
        items = int(np.count_nonzero(log.counts))
        positions, layer = settings.batch * settings.length, 40 * settings.dim + 4 * settings.heads * settings.length
        decoded = (settings.levels_of(items) + 1) * (3 * settings.codes + 40 * settings.dim * settings.decoder_layers)
        step = 4 * positions * (settings.layers * layer + decoded + 3 * MOST_IN_LEAF * settings.dim)
        return 400 * len(log.item) + 8 * MOST_IN_LEAF * items + 32 * items * settings.dim + step
