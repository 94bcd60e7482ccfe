"""Trains `ranker`: LambdaMART over the candidates of several strategies, on the newest behaviours.

C. Burges, "From RankNet to LambdaRank to LambdaMART: an overview", Microsoft Research MSR-TR-2010-82, 2010.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from recserve_export.training.base import Learned, Trainer, TrainingLog, TrainSettings
from recserve_export.training.ranking.questions import Lists, joined, listed, questions
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.strategies.parts.ranking import feature_names
from recserve_server_ext.strategies.ranker import NAME, PreparedOptions, model_arrays
from recserve_server_ext.strategies.registry import Registry


class RankerSettings(TrainSettings, frozen=True):
    """Settings of `ranker`.

    Attributes:
        trees: Number of trees.
        leaves: Leaves of a tree at most.
        rate: Factor of what each tree adds.
        least: Candidates in a leaf at least.
        l2: Strength of the regularisation of leaves.
        visit: Weight of a question within a visit, beside 1 for one after a pause.
        cuts: Cuts in time that are learned from at most; each trains all sources on what came before.
        lists: Users of each kind that are learned from at most, those with the newest behaviours.
    """

    trees: Annotated[int, Meta(ge=1, le=2000)] = 100
    leaves: Annotated[int, Meta(ge=2, le=255)] = 7
    rate: Annotated[float, Meta(gt=0, le=1)] = 0.05
    least: Annotated[int, Meta(ge=1, le=100_000)] = 50
    l2: Annotated[float, Meta(ge=0, le=1e6)] = 10.0
    visit: Annotated[float, Meta(gt=0, le=1e6)] = 0.3
    cuts: Annotated[int, Meta(ge=0, le=9)] = 5
    lists: Annotated[int, Meta(ge=1, le=100_000)] = 2000


class RankerTrainer(Trainer):
    """Boosted trees that order the candidates of a user by what the user turned to next."""

    Settings = RankerSettings
    is_slow = True

    def __init__(self, sources: Mapping[str, Trainer], lists: Sequence[Lists] | None = None) -> None:
        """
        Args:
            sources: Trainings of the sources, by name.
            lists: What the model learns from; `None` makes it from the log.
        """
        self._sources = sources
        self._lists = lists

    def train(self, log: TrainingLog, text: Vectors | None, settings: RankerSettings) -> Learned:
        """Train the sources on older parts of the log, and the model on what users did after these."""
        strategy, options = Registry().choose(NAME, {})
        assert isinstance(options, PreparedOptions)
        lists: Iterable[Lists] | None = self._lists
        if lists is None:
            vectors = np.zeros((len(log.items), 1), np.float32) if text is None else text
            asked = questions(log, vectors, self._sources, settings.seed, settings.cuts, settings.lists)
            lists = (listed(question, strategy.trainings(options) - {NAME}, options) for question in asked)
        found = joined(lists)
        names = list(options.sources)
        if found is None or not len(found.lengths):
            # Trees without a split: all candidates score the same, and stay in the order of the pool.
            found = Lists(
                np.zeros((1, len(feature_names(names)))),
                np.zeros(1, np.int64),
                np.ones(1, np.int64),
                np.ones(1, np.bool_),
            )
        figures = {"trees": settings.trees, "lists": len(found.lengths), "candidates": len(found.labels)}
        booster = _fitted(found, settings, feature_names(names))
        arrays = dict(model_arrays(booster, names))
        return Learned(items=np.empty(0, np.int64), model=arrays, figures=figures)

    def needed_bytes(self, log: TrainingLog, settings: RankerSettings) -> int:
        """The features of all candidates, and what the most expensive of the sources needs."""
        strategy, options = Registry().choose(NAME, {})
        names = strategy.trainings(options) - {NAME}
        of_sources = [self._sources[name] for name in names]
        sources = max(trainer.needed_bytes(log, trainer.Settings()) for trainer in of_sources)
        rows: int = 2 * options.options.pool * min(settings.lists, log.users)
        return sources + 16 * rows * len(feature_names(list(options.sources)))


def _fitted(found: Lists, settings: RankerSettings, names: list[str]) -> str:
    """The text of a booster."""
    # Here, since only this training needs it.
    import lightgbm

    parameters: dict[str, Any] = {
        "objective": "lambdarank",
        "lambdarank_truncation_level": 20,
        "num_leaves": settings.leaves,
        "learning_rate": settings.rate,
        "min_data_in_leaf": settings.least,
        "lambda_l2": settings.l2,
        "seed": settings.seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,  # sums of several threads would depend on their number
        "verbosity": -1,
    }
    weights = np.where(found.is_visit, settings.visit, 1.0)
    data = lightgbm.Dataset(found.features, found.labels, group=found.lengths, weight=weights, feature_name=names)
    booster: str = lightgbm.train(parameters, data, settings.trees).model_to_string()
    return booster
