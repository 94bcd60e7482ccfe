"""Registered strategies as systems, by requests of users through the pipeline of the server."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache, partial
from itertools import pairwise
from typing import Final

import numpy as np

from recserve_benchmarks.evaluation.ranking import LENGTH, Known, of_users
from recserve_benchmarks.evaluation.split import later_of_user
from recserve_benchmarks.evaluation.system import AUTO, Ranker, Settings, System, nothing
from recserve_benchmarks.evaluation.trained import Trained, stand_ins, trained
from recserve_client.contract import RecommendRequest, RequestError, Slate
from recserve_export.training.registry import TRAINERS
from recserve_server_ext.attributes.view import LiveFilters
from recserve_server_ext.catalogue.view import view_over
from recserve_server_ext.common.arrays import Ints
from recserve_server_ext.config.counts import CountSettings
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.config.server import Limits
from recserve_server_ext.counts.counts import Counts, LogColumns, counts_of, no_counts
from recserve_server_ext.history.cleaning import of_types
from recserve_server_ext.history.features import select
from recserve_server_ext.history.user_histories import WINDOW, RecordedHistory, recorded_histories
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
from recserve_server_ext.strategies.fusion import Fusion
from recserve_server_ext.strategies.registry import Registry

_BATCH: Final = 64
#: Batches of histories that are kept from one strategy to the next.
_KEPT: Final = 512
_FALLBACK: Final = "popular"


class Server:
    """What a server would answer if the known part of the log were all there is."""

    def __init__(self, known: Known, rules: HistoryRules | None = None, trainings: Sequence[str] = ()) -> None:
        """
        Args:
            known: What may be known.
            rules: How interactions become weights.
            trainings: Names of what is trained on it.
        """
        self._known = known
        self._rules = rules or HistoryRules()
        self._trainings = trainings
        self._limits = Limits()
        self._histories: dict[int, list[RecordedHistory]] = {}

    @cached_property
    def data(self) -> Data:
        """The catalogue, the counts, and what was trained."""
        known, vectors = self._known, self._known.vectors
        learned = self.trained
        ids, available = known.columns.subjects, known.part.candidates
        view = view_over(vectors, ExactEngine(vectors), ids, available, learned.spaces, learned.matrices)
        counts = _counts(known, counted_types(known.columns, self._rules))
        return Data(view, LiveFilters(view).of(view), CountsView(counts, view))

    @cached_property
    def trained(self) -> Trained:
        """What the trainings gave."""
        return trained(self._known, self._rules, self._trainings)

    def answers(
        self, request: RecommendRequest, registry: Registry, users: Ints
    ) -> list[tuple[Job, Slate | RequestError]]:
        """The job and the slate of users, given by their places in the part.

        Args:
            request: Of each user; without a strategy it is `text`.
            registry: Of the strategies.
            users: Ascending.
        """
        configured = registry.choose(request.strategy or TEXT, request.options)
        pipeline = Pipeline(registry.choose(_FALLBACK, {}), RankingCache(1))
        asked_us = self._known.part.asked_us
        found: list[tuple[Job, Slate | RequestError]] = []
        for start in range(0, len(users), _BATCH):
            jobs = []
            for history in self._recorded(users[start : start + _BATCH]):
                job = Job(request, configured, self.data, "")
                now_us = history.newest_us if asked_us is None else asked_us
                build_query(job, profile_of_user(request, history, self.data.view, self._limits, now_us))
                jobs.append(job)
            found += zip(jobs, pipeline.run(jobs), strict=True)
        return found

    def _recorded(self, users: Ints) -> list[RecordedHistory]:
        key = int(users[0])
        kept = self._histories.get(key)
        if kept is None or len(kept) != len(users):
            if len(self._histories) >= _KEPT:
                self._histories.clear()
            own = newest(of_users(self._known.histories, users))
            kept = self._histories[key] = recorded_histories(own, self._seen(users), self._rules)
        return kept

    def _seen(self, users: Ints) -> list[list[str]]:
        seen, ids = self._known.seen[users], self._known.columns.subjects
        return [[ids[item] for item in seen.indices[start:end].tolist()] for start, end in pairwise(seen.indptr)]


# The settings of all strategies are tried one after the other on a part.
server_of = lru_cache(maxsize=1)(Server)


def newest(histories: InteractionColumns) -> InteractionColumns:
    """The interactions of each user that a history is made from."""
    return select(histories, np.flatnonzero(later_of_user(histories, np.arange(len(histories.time_us))) < WINDOW))


def counted_types(columns: InteractionColumns, rules: HistoryRules) -> tuple[str, ...]:
    """Types of interactions that count for everybody."""
    return tuple(name for name in columns.types if rules.base.get(name, 0.0) > 0)


def _counts(known: Known, types: tuple[str, ...]) -> Counts:
    """What the server counts of the log: by time, of the types that count."""
    columns = known.columns
    order = np.argsort(columns.time_us, kind="stable")
    order = order[of_types(columns, types)[order]]
    log = LogColumns(columns.user[order], columns.subject[order], columns.time_us[order], columns.subjects, {})
    return counts_of(log, int(columns.time_us.max()), CountSettings())


def _prepared(trainings: tuple[str, ...], known: Known) -> dict[str, float]:
    """Count and train; the seconds of each training."""
    server = server_of(known, None, trainings)
    assert server.data is not None
    return server.trained.seconds


def by_strategy(name: str, registry: Registry, trainings: tuple[str, ...], known: Known, settings: Settings) -> Ranker:
    """Ranks as the slates of a strategy with these options do; nothing where it lacks something."""
    server = server_of(known, None, trainings)
    strategy, options = registry.choose(name, settings)
    if strategy.lacking(server.data, options) is not None:
        return nothing
    request = RecommendRequest(user_id="", k=LENGTH, strategy=name, options=dict(settings), explain=False)

    def rank(users: Ints) -> Ints:
        rankings = nothing(users)
        for line, (job, slate) in zip(rankings, server.answers(request, registry, users), strict=True):
            if isinstance(slate, Slate) and job.ranked is not None:
                rows = job.ranked.rows[:LENGTH]
                line[: len(rows)] = rows
        return rankings

    return rank


def systems(names: Sequence[str] = ()) -> list[System]:
    """A system for every registered strategy that can answer, or for some of them; `auto` is put together from these.

    Trained are the strategies that are evaluated, and all of them where one is a fusion.
    """
    registry = Registry()
    asked = [name for name in registry.names if (not names or name in names) and name != AUTO]
    has_fusion = any(isinstance(registry.choose(name, {}).strategy, Fusion) for name in asked)
    trainings = tuple(name for name in TRAINERS if has_fusion or name in asked)
    vectors, ready = np.ones((1, 1), np.float32), stand_ins()
    view = view_over(vectors, ExactEngine(vectors), spaces=ready.spaces, matrices=ready.matrices)
    data = Data(view, LiveFilters(view).of(view), CountsView(no_counts(), view))
    found = []
    for name in asked:
        strategy, options = registry.choose(name, {})
        if strategy.lacking(data, options) is None:
            fit = partial(by_strategy, name, registry, trainings)
            system = System(
                name=name,
                kind="strategy",
                fit=fit,
                grid=tuple(strategy.grid),
                is_personal=strategy.is_personal,
                prepare=partial(_prepared, trainings),
            )
            found.append(system)
    return found
