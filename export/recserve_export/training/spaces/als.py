"""Trains `als`: implicit-feedback matrix factorisation by alternating least squares.

Y. Hu, Y. Koren and C. Volinsky, "Collaborative filtering for implicit feedback datasets", ICDM 2008.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import numpy as np
from msgspec import Meta
from scipy import sparse

from recserve_export.training.base import Learned, Trainer, TrainingLog, TrainSettings, text_map
from recserve_export.training.spaces.als_on_spark import factors_on_spark
from recserve_server_ext.common.arrays import Ints, Vectors

#: A pair with more than so many times the mean weight counts as much as one with that weight.
_MOST_WEIGHT: Final = 10.0


class AlsSettings(TrainSettings, frozen=True):
    """Settings of `als`.

    Attributes:
        factors: Length of the vectors.
        alpha: A behaviour with the mean weight has the confidence 1 + alpha; everything else has 1.
        regularization: Strength of the regularisation.
        iterations: Passes over users and items.
        workers: Workers of a Spark cluster that share users and items; 1 trains in this process, by implicit.
    """

    factors: Annotated[int, Meta(ge=1, le=1024)] = 64
    alpha: Annotated[float, Meta(gt=0, le=1e6)] = 10.0
    regularization: Annotated[float, Meta(gt=0, le=1e6)] = 10.0
    iterations: Annotated[int, Meta(ge=1, le=1000)] = 15
    workers: Annotated[int, Meta(ge=1, le=256)] = 1


class AlsTrainer(Trainer):
    """Item factors; users are folded in while serving, so theirs are forgotten."""

    Settings = AlsSettings
    grid = ({}, {"factors": 32}, {"factors": 128, "alpha": 5.0})

    def train(self, log: TrainingLog, text: Vectors | None, settings: AlsSettings) -> Learned:
        """Learn factors of the items that somebody had to do with, and a map from texts for the others."""
        items = np.flatnonzero(log.counts)
        factors_of = factors_on_spark if settings.workers > 1 else item_factors
        factors = factors_of(confidences(log, items, settings.alpha), settings)
        parameters = {"alpha": settings.alpha, "regularization": settings.regularization}
        return Learned(items=items, vectors=factors, text_map=text_map(text, items, factors), parameters=parameters)

    def needed_bytes(self, log: TrainingLog, settings: AlsSettings) -> int:
        """Two sparse matrices of the log, and the factors."""
        items = int(np.count_nonzero(log.counts))
        return 24 * len(log.item) + 8 * (log.users + items) * settings.factors


def confidences(log: TrainingLog, items: Ints, alpha: float) -> Any:
    """[users, items] 1 + alpha w: w the weight of a pair over the mean weight."""
    found = sparse.csr_matrix(log.weighted[:, items])
    mean = float(found.data.mean())
    found.data = (1.0 + alpha * np.minimum(found.data / mean, _MOST_WEIGHT)).astype(np.float32)
    return found


def item_factors(confidence: Any, settings: AlsSettings) -> Vectors:
    """[items, factors] float32 from the confidences [users, items]."""
    # Here, since only this training needs it.
    from implicit.cpu.als import AlternatingLeastSquares
    from threadpoolctl import threadpool_limits

    # Its own threads and those of the linear algebra would take the cores from each other.
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=settings.factors,
            regularization=settings.regularization,
            alpha=1.0,
            iterations=settings.iterations,
            use_cg=False,  # exact steps: the result does not depend on where a solver stops
            random_state=settings.seed,
        )
        model.fit(confidence, show_progress=False)
    factors: Vectors = np.ascontiguousarray(model.item_factors, np.float32)
    return factors
