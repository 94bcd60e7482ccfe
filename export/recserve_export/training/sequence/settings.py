"""Settings of the training `sequence`, and of other trainings of a network over histories."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from recserve_export.training.base import TrainSettings
from recserve_server_ext.networks.network import Precision


class HistoryNetworkSettings(TrainSettings, frozen=True):
    """Settings of a network that reads histories.

    Attributes:
        dim: Length of the vectors; a multiple of `heads`.
        length: Behaviours that the network takes.
        layers: Transformer layers.
        heads: Attention heads of a layer.
        dropout: Share of the values that are dropped in training.
        rate: Learning rate.
        decay: Weight decay.
        batch: Windows of a step.
        epochs: Passes over the log at most.
        more_epochs: Passes over a log of which an earlier part was learned, as in an evaluation.
        held_out: Share of the log, the newest, that finds the number of epochs; 0 takes `epochs`.
        patience: Epochs without a gain on that part after which the search ends.
        workers: Workers of a Ray cluster that share the windows of each step; 1 trains in this process.
    """

    dim: Annotated[int, Meta(ge=8, le=512)] = 64
    length: Annotated[int, Meta(ge=2, le=512)] = 50
    layers: Annotated[int, Meta(ge=1, le=8)] = 2
    heads: Annotated[int, Meta(ge=1, le=16)] = 2
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.2
    rate: Annotated[float, Meta(gt=0, le=1)] = 0.002
    decay: Annotated[float, Meta(ge=0, le=1)] = 0.01
    batch: Annotated[int, Meta(ge=1, le=4096)] = 64
    epochs: Annotated[int, Meta(ge=1, le=1000)] = 20
    more_epochs: Annotated[int, Meta(ge=0, le=1000)] = 2
    held_out: Annotated[float, Meta(ge=0, le=0.5)] = 0.05
    patience: Annotated[int, Meta(ge=1, le=100)] = 2
    workers: Annotated[int, Meta(ge=1, le=256)] = 1

    @property
    def is_masked(self) -> bool:
        """Whether hidden behaviours are predicted from those around them, not the next from those before."""
        return False


class SequenceSettings(HistoryNetworkSettings, frozen=True):
    """Settings of `sequence`: those of its network, and how its vectors are learned.

    Attributes:
        objective: `next` predicts the next behaviour from those before it (SASRec), `masked` hidden behaviours from
            those around them (BERT4Rec).
        exact_items: With more items the softmax is over drawn ones.
        negatives: Items that are drawn for a step.
        precision: Of the exported network. int8 is refused where it ranks otherwise than fp32; it is faster from a
            `dim` of 128 on.
    """

    objective: Literal["next", "masked"] = "next"
    exact_items: Annotated[int, Meta(ge=0, le=100_000)] = 10_000
    negatives: Annotated[int, Meta(ge=1, le=100_000)] = 1024
    precision: Precision = "fp32"

    @property
    def is_masked(self) -> bool:
        """Whether the objective is that of BERT4Rec."""
        return self.objective == "masked"
