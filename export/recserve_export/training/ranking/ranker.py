"""Trains `ranker`: LambdaMART over the candidates of several strategies, on the newest behaviours.

C. Burges, "From RankNet to LambdaRank to LambdaMART: an overview", Microsoft Research MSR-TR-2010-82, 2010.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
from msgspec import Meta
from scipy import stats

from recserve_export.training.base import Learned, Trainer, TrainingLog, TrainSettings
from recserve_export.training.ranking.questions import Lists, joined, listed, listed_answers, questions
from recserve_server_ext.common.arrays import Floats, Vectors
from recserve_server_ext.strategies.parts.ranking import feature_names
from recserve_server_ext.strategies.ranker import NAME, PreparedOptions, model_arrays
from recserve_server_ext.strategies.registry import Registry

#: Share of the answers, the newest, that decides whether they are learned from.
_NEWEST: Final = 0.2


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
        least_answers: Logged answers with a click from which on they may be learned from; 0 for never.
        clip: Bound of the inverse propensities of what they showed.
    """

    trees: Annotated[int, Meta(ge=1, le=2000)] = 100
    leaves: Annotated[int, Meta(ge=2, le=255)] = 7
    rate: Annotated[float, Meta(gt=0, le=1)] = 0.05
    least: Annotated[int, Meta(ge=1, le=100_000)] = 50
    l2: Annotated[float, Meta(ge=0, le=1e6)] = 10.0
    visit: Annotated[float, Meta(gt=0, le=1e6)] = 0.3
    cuts: Annotated[int, Meta(ge=0, le=9)] = 5
    lists: Annotated[int, Meta(ge=1, le=100_000)] = 2000
    least_answers: Annotated[int, Meta(ge=0, le=100_000)] = 500
    clip: Annotated[float, Meta(ge=1, le=1e6)] = 10.0


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
        names = list(options.sources)
        found, shown = joined(self._lists or []), None
        if self._lists is None:
            found, shown = self._made(log, text, settings, strategy.trainings(options) - {NAME}, options)
        if found is None or not len(found.lengths):
            # Trees without a split: all candidates score the same, and stay in the order of the pool.
            found = Lists(
                np.zeros((1, len(feature_names(names)))),
                np.zeros(1, np.int64),
                np.ones(1, np.int64),
                np.ones(1, np.bool_),
                np.ones(1),
            )
        figures: dict[str, Any] = {
            "trees": settings.trees, "lists": len(found.lengths), "candidates": len(found.labels),
        }  # fmt: skip
        if shown is not None and 0 < settings.least_answers <= len(shown.lengths):
            trial = tried(found, shown, settings, feature_names(names))
            figures |= {"answers": len(shown.lengths), "tried": trial._asdict()}
            if trial.helps:
                found = Lists(*(np.concatenate(parts) for parts in zip(found, shown, strict=True)))
        booster = fitted(found, settings, feature_names(names))
        arrays = dict(model_arrays(booster, names))
        return Learned(items=np.empty(0, np.int64), model=arrays, figures=figures)

    def _made(
        self,
        log: TrainingLog,
        text: Vectors | None,
        settings: RankerSettings,
        trainings: frozenset[str],
        options: PreparedOptions,
    ) -> tuple[Lists | None, Lists | None]:
        """What users turned to, and what they were shown, the oldest first, by parts of the log."""
        vectors = np.zeros((len(log.items), 1), np.float32) if text is None else text
        found, shown = list[Lists](), list[Lists]()
        for question in questions(log, vectors, self._sources, settings.seed, settings.cuts, settings.lists):
            found.append(listed(question, trainings, options))
            if settings.least_answers:
                shown.append(listed_answers(question, log.columns, trainings, options, settings.clip))
        return joined(found), joined(shown[::-1])

    def needed_bytes(self, log: TrainingLog, settings: RankerSettings) -> int:
        """The features of all candidates, and what the most expensive of the sources needs."""
        strategy, options = Registry().choose(NAME, {})
        names = strategy.trainings(options) - {NAME}
        of_sources = [self._sources[name] for name in names]
        sources = max(trainer.needed_bytes(log, trainer.Settings()) for trainer in of_sources)
        rows: int = 2 * options.options.pool * min(settings.lists, log.users)
        rows += 0 if log.answers is None else len(log.answers.item)
        return sources + 16 * rows * len(feature_names(list(options.sources)))


class Trial(NamedTuple):
    """Whether answers help: NDCG on the newest answers, which neither model was trained on.

    Attributes:
        ndcg: NDCG of a model that was trained on the older answers, too; clicks weigh by inverse propensities.
        ndcg_without: That of one that was not.
        helps: Whether the difference is over its standard error.
    """

    ndcg: float
    ndcg_without: float
    helps: bool


def tried(found: Lists, shown: Lists, settings: RankerSettings, names: list[str]) -> Trial:
    """Train with the older answers and without, and compare on the newest ones.

    Args:
        found: What users turned to; both learn from it.
        shown: What they were shown, the oldest first.
        settings: Settings.
        names: Names of the features.
    """
    # Here, since only this training needs it.
    import lightgbm

    first = round((1.0 - _NEWEST) * len(shown.lengths))
    older, newest = shown.take(0, first), shown.take(first, len(shown.lengths))
    both = Lists(*(np.concatenate(parts) for parts in zip(found, older, strict=True)))
    values = [
        _ndcg(
            lightgbm.Booster(model_str=fitted(lists, settings, names)).predict(newest.features, num_threads=1), newest
        )
        for lists in (both, found)
    ]
    difference = values[0] - values[1]
    helps = bool(difference.mean() > stats.sem(difference)) if len(difference) > 1 else False
    return Trial(round(float(values[0].mean()), 4), round(float(values[1].mean()), 4), helps)


def _ndcg(scores: Floats, lists: Lists) -> Floats:
    """[lists] NDCG of each list in the order of the scores, where a click counts by its weight."""
    gains, of_list = lists.labels * lists.weight, np.repeat(np.arange(len(lists.lengths)), lists.lengths)
    starts = np.cumsum(lists.lengths) - lists.lengths

    def dcg(by: Floats) -> Floats:
        order = np.lexsort([-by, of_list])
        place = np.arange(len(by)) - np.repeat(starts, lists.lengths)
        return np.add.reduceat(gains[order] / np.log2(place + 2.0), starts)

    found: Floats = dcg(scores) / dcg(gains)
    return found


def fitted(found: Lists, settings: RankerSettings, names: list[str]) -> str:
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
    weights = np.where(found.is_visit, settings.visit, 1.0) * found.weight
    data = lightgbm.Dataset(found.features, found.labels, group=found.lengths, weight=weights, feature_name=names)
    booster: str = lightgbm.train(parameters, data, settings.trees).model_to_string()
    return booster
