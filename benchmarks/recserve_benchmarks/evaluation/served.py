"""Registered strategies as systems, by requests of users through the pipeline of the server."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache, partial
from typing import Final

import numpy as np

from recserve_benchmarks.evaluation.ranking import NEVER, Known
from recserve_benchmarks.evaluation.split import later_of_user
from recserve_benchmarks.evaluation.system import Settings, System
from recserve_client.contract import RecommendRequest, RequestError, Slate
from recserve_export.training.base import Learned, training_log
from recserve_export.training.memory import in_memory
from recserve_export.training.registry import TRAINERS, train
from recserve_server_ext.attributes.view import LiveFilters
from recserve_server_ext.catalogue.view import view_over
from recserve_server_ext.common.arrays import Scores
from recserve_server_ext.config.counts import CountSettings
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.config.server import Limits
from recserve_server_ext.counts.counts import Counts, LogColumns, counts_of, no_counts
from recserve_server_ext.history.cleaning import of_types
from recserve_server_ext.history.features import select
from recserve_server_ext.history.user_histories import WINDOW, recorded_histories
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.space import TEXT
from recserve_server_ext.interactions.columns import InteractionColumns
from recserve_server_ext.recommend.job import Job
from recserve_server_ext.recommend.paging import RankingCache
from recserve_server_ext.recommend.pipeline import Pipeline
from recserve_server_ext.recommend.profile import profile_of_user
from recserve_server_ext.recommend.query import build_query
from recserve_server_ext.strategies.base import Data
from recserve_server_ext.strategies.counts_view import CountsView
from recserve_server_ext.strategies.registry import Registry

_LONGEST: Final = 20
_BATCH: Final = 64
_FALLBACK: Final = "popular"


def slates(
    known: Known,
    request: RecommendRequest,
    rules: HistoryRules,
    registry: Registry,
    trainings: Collection[str] = TRAINERS.keys(),
) -> list[Slate | RequestError]:
    """The slate of each user asked about.

    Args:
        known: What may be known.
        request: Of each user; without a strategy it is `text`.
        rules: How interactions become weights.
        registry: Of the strategies.
        trainings: Names of the trainings that are done, on what is known, where the strategy reads them.
    """
    ids, limits = known.columns.subjects, Limits()
    configured = registry.choose(request.strategy or TEXT, request.options)
    learned = {
        name: _learned(known, name)
        for name in sorted(configured.strategy.trainings(configured.options) & set(trainings))
    }
    view = view_over(known.vectors, ExactEngine(known.vectors), ids, None, *in_memory(learned, known.vectors))
    counts = _counts(known, counted_types(known.columns, rules))
    data = Data(view, LiveFilters(view).of(view), CountsView(counts, view))
    pipeline = Pipeline(registry.choose(_FALLBACK, {}), RankingCache(1))
    seen: list[list[str]] = [[] for _ in known.part.users]
    for number, item in zip(known.histories.user.tolist(), known.histories.subject.tolist(), strict=True):
        seen[number].append(ids[item])
    recorded = recorded_histories(newest(known.histories), seen, rules)
    found: list[Slate | RequestError] = []
    for start in range(0, len(recorded), _BATCH):
        jobs = []
        for history in recorded[start : start + _BATCH]:
            asked_us = history.newest_us if known.part.asked_us is None else known.part.asked_us
            job = Job(request, configured, data, "")
            build_query(job, profile_of_user(request, history, view, limits, asked_us))
            jobs.append(job)
        found += pipeline.run(jobs)
    return found


def newest(histories: InteractionColumns) -> InteractionColumns:
    """The interactions of each user that a history is made from."""
    return select(histories, np.flatnonzero(later_of_user(histories, np.arange(len(histories.time_us))) < WINDOW))


def counted_types(columns: InteractionColumns, rules: HistoryRules) -> tuple[str, ...]:
    """Types of interactions that count for everybody."""
    return tuple(name for name in columns.types if rules.base.get(name, 0.0) > 0)


# Settings are tried one after the other on the parts of all seeds.
@lru_cache(maxsize=8)
def _counts(known: Known, types: tuple[str, ...]) -> Counts:
    """What the server counts of the log: by time, of the types that count."""
    columns = known.columns
    order = np.argsort(columns.time_us, kind="stable")
    order = order[of_types(columns, types)[order]]
    log = LogColumns(columns.user[order], columns.subject[order], columns.time_us[order], columns.subjects, {})
    return counts_of(log, int(columns.time_us.max()), CountSettings())


@lru_cache(maxsize=32)
def _learned(known: Known, name: str) -> Learned:
    """What a training finds in what is known."""
    return train(name, training_log(known.columns), known.vectors)


def by_strategy(name: str, known: Known, settings: Settings) -> Scores:
    """[n, items] scores that rank as the slates of a strategy with these options do; nothing else is ranked."""
    request = RecommendRequest(user_id="", k=_LONGEST, strategy=name, options=dict(settings), explain=False)
    place_of = {item: place for place, item in enumerate(known.columns.subjects)}
    scores = np.full((len(known.part.users), len(known.vectors)), NEVER, np.float32)
    for line, slate in zip(scores, slates(known, request, HistoryRules(), Registry()), strict=True):
        if isinstance(slate, Slate):
            line[[place_of[item.id] for item in slate.items]] = -np.arange(len(slate.items), dtype=np.float32)
    return scores


def systems() -> list[System]:
    """A system for every registered strategy that can answer."""
    registry = Registry()
    vectors = np.ones((1, 1), np.float32)
    view = view_over(vectors, ExactEngine(vectors))
    data = Data(view, LiveFilters(view).of(view), CountsView(no_counts(), view))
    found = []
    for name in registry.names:
        strategy, options = registry.choose(name, {})
        trainings = strategy.trainings(options)
        if (trainings and trainings <= TRAINERS.keys()) or strategy.lacking(data, options) is None:
            grid = tuple(strategy.grid)
            found.append(System(name=name, kind="strategy", score=partial(by_strategy, name), grid=grid))
    return found
