"""Trains `item2vec`: word2vec (skip-gram) where histories are sentences and items are words.

O. Barkan and N. Koenigstein, "Item2Vec: neural item embedding for collaborative filtering", MLSP 2016.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from msgspec import Meta

from recserve_export.training.base import Learned, Trainer, TrainingLog, TrainSettings, text_map
from recserve_server_ext.common.arrays import Vectors


class Item2VecSettings(TrainSettings, frozen=True):
    """Settings of `item2vec`.

    Attributes:
        dim: Length of the vectors.
        window: Items before and after that are predicted.
        epochs: Passes over the log.
        ns_exponent: Negative samples are drawn by popularity to this power.
    """

    dim: Annotated[int, Meta(ge=1, le=1024)] = 64
    window: Annotated[int, Meta(ge=1, le=1000)] = 20
    epochs: Annotated[int, Meta(ge=1, le=1000)] = 10
    ns_exponent: Annotated[float, Meta(ge=-2, le=2)] = 0.0


class Item2VecTrainer(Trainer):
    """Unit vectors of items; one thread, so that the same log gives the same vectors."""

    Settings = Item2VecSettings
    is_for_all = False  # it loses against the others on every log that was tried

    def train(self, log: TrainingLog, text: Vectors | None, settings: Item2VecSettings) -> Learned:
        """Learn vectors of the items that somebody had to do with."""
        # Here, since only this training needs it.
        from gensim.models import Word2Vec

        names = np.array([str(item) for item in range(len(log.items))])[log.item]
        bounds = np.flatnonzero(np.diff(log.user)) + 1
        sentences = [part.tolist() for part in np.split(names, bounds)]
        model = Word2Vec(
            sentences,
            sg=1,
            vector_size=settings.dim,
            window=settings.window,
            epochs=settings.epochs,
            ns_exponent=settings.ns_exponent,
            min_count=1,
            sample=0,
            workers=1,
            seed=settings.seed,
        )
        items = np.flatnonzero(log.counts)
        vectors = model.wv[[str(item) for item in items.tolist()]]
        unit = (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)).astype(np.float32)
        return Learned(items=items, vectors=unit, text_map=text_map(text, items, unit))

    def needed_bytes(self, log: TrainingLog, settings: Item2VecSettings) -> int:
        """The sentences, and two vectors of each item."""
        return 100 * len(log.item) + (8 * settings.dim + 500) * int(np.count_nonzero(log.counts))
