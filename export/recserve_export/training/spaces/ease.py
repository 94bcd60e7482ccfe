"""Trains `ease`: ridge regression of each item on all others, compressed to input and output vectors.

H. Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019.
"""

from __future__ import annotations

from typing import Annotated, Final

import numpy as np
from msgspec import Meta
from scipy import linalg

from recserve_export.training.base import Learned, Trainer, TrainingLog, TrainSettings, text_map
from recserve_export.training.spaces.linear import truncated_svd
from recserve_server_ext.common.arrays import Ints, Vectors


class EaseSettings(TrainSettings, frozen=True):
    """Settings of `ease`.

    Attributes:
        l2: Strength of the regularisation.
        rank: Length of the vectors.
        exact_items: With more items the log is decomposed, in place of the matrix of weights.
    """

    l2: Annotated[float, Meta(gt=0, le=1e9)] = 1000.0
    rank: Annotated[int, Meta(ge=1, le=1024)] = 128
    exact_items: Annotated[int, Meta(ge=0, le=50_000)] = 10_000


#: Bytes.
_FLOAT: Final = 4
_DOUBLE: Final = 8


class EaseTrainer(Trainer):
    """B = I - P diag(P)^-1, P = (X'X + l2 I)^-1, X [users, items] of 0 and 1; rank-d factors of B are the vectors."""

    Settings = EaseSettings
    grid = ({}, {"l2": 100.0}, {"l2": 300.0}, {"l2": 3000.0})

    def train(self, log: TrainingLog, text: Vectors | None, settings: EaseSettings) -> Learned:
        """Learn input and output vectors of the items that somebody had to do with."""
        items = np.flatnonzero(log.counts)
        seen = log.seen[:, items]
        if len(items) <= settings.exact_items:
            left, values, right = truncated_svd(_weights(seen, settings.l2), settings.rank, settings.seed)
            roots = np.sqrt(values).astype(np.float32)
            inputs, outputs = left * roots, right.T * roots
        else:
            inputs, outputs = _decomposed(seen, settings)
        return _learned(items, inputs, outputs, text)

    def needed_bytes(self, log: TrainingLog, settings: EaseSettings) -> int:
        """Three dense matrices of the inverse, and with fewer users as many of the log; else a few of low rank."""
        items = int(np.count_nonzero(log.counts))
        if items <= settings.exact_items:
            return 3 * _DOUBLE * items * (items + (log.users if log.users < items else 0))
        return 12 * _FLOAT * (log.users + items) * (settings.rank + 10)


def _learned(items: Ints, inputs: Vectors, outputs: Vectors, text: Vectors | None) -> Learned:
    inputs, outputs = np.ascontiguousarray(inputs, np.float32), np.ascontiguousarray(outputs, np.float32)
    joint = np.hstack([outputs, inputs])
    return Learned(items=items, vectors=outputs, inputs=inputs, text_map=text_map(text, items, joint))


def _weights(seen, l2: float) -> Vectors:  # type: ignore[no-untyped-def]  # scipy publishes no types
    """[items, items] the weights B, with a zero diagonal.

    With fewer users than items the inverse follows from the smaller X X' (Woodbury):
    P = (I - X' (X X' + l2 I)^-1 X) / l2.
    """
    users, items = seen.shape
    if users < items:
        gram = (seen @ seen.T).toarray().astype(np.float64)
        gram[np.diag_indices(users)] += l2
        dense = seen.toarray().astype(np.float64)
        solved = linalg.solve(gram, dense, assume_a="pos", overwrite_a=True)
        precision = -(dense.T @ solved)
        precision[np.diag_indices(items)] += 1.0
    else:
        gram = (seen.T @ seen).toarray().astype(np.float64)
        gram[np.diag_indices(items)] += l2
        # The scale of P cancels in P diag(P)^-1.
        precision = linalg.inv(gram, overwrite_a=True)
    weights: Vectors = (-(precision / np.diag(precision))).astype(np.float32)
    np.fill_diagonal(weights, 0.0)
    return weights


def _decomposed(seen, settings: EaseSettings) -> tuple[Vectors, Vectors]:  # type: ignore[no-untyped-def]
    """Inputs and outputs from X = U S V': B_ij = (V D V')_ij / (1 - (V D V')_jj) beside the diagonal.

    D = S^2 / (S^2 + l2). The diagonal is not zero, but what the user has had is not recommended.
    """
    _, values, right = truncated_svd(seen, settings.rank, settings.seed)
    shares = values**2 / (values**2 + settings.l2)
    inputs = right.T * np.sqrt(shares)
    kept = (inputs**2).sum(axis=1, keepdims=True)
    return inputs, inputs / np.maximum(1.0 - kept, 1e-6)
