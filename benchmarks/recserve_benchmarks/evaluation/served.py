"""Registered strategies as systems, by requests of users through the pipeline of the server."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Final

import numpy as np

from recserve_benchmarks.evaluation.ranking import LENGTH, Known
from recserve_benchmarks.evaluation.system import AUTO, Kind, Ranker, Settings, System, nothing
from recserve_client.contract import RecommendRequest, RequestError, Slate
from recserve_export.training.base import Learned
from recserve_export.training.memory import Networks
from recserve_export.training.ranking.past import Past, histories_of, of_users
from recserve_export.training.ranking.questions import Lists, Question, listed
from recserve_export.training.ranking.ranker import RankerTrainer
from recserve_export.training.registry import TRAINERS
from recserve_server_ext.attributes.view import LiveFilters
from recserve_server_ext.catalogue.view import view_over
from recserve_server_ext.common.arrays import Ints
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.config.server import Limits
from recserve_server_ext.counts.counts import no_counts
from recserve_server_ext.history.recorded_history import RecordedHistory
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.space import TEXT
from recserve_server_ext.recommend.job import Job
from recserve_server_ext.recommend.paging import RankingCache
from recserve_server_ext.recommend.pipeline import Pipeline
from recserve_server_ext.recommend.profile import profile_of_user
from recserve_server_ext.recommend.query import build_query
from recserve_server_ext.strategies.base import Data
from recserve_server_ext.strategies.parts.chosen import Chosen
from recserve_server_ext.strategies.parts.counts_view import CountsView
from recserve_server_ext.strategies.ranker import NAME as RANKER
from recserve_server_ext.strategies.registry import Registry

_BATCH: Final = 64
#: Batches of histories that are kept from one strategy to the next.
_KEPT: Final = 512
_FALLBACK: Final = "popular"
#: A sum of two strategies to compare with: neither served nor chosen.
SUM: Final = "ease and recent popularity"
_SUM: Final = {
    "kind": "fusion",
    "weights": {"ease": 1.0, "popular": 1.0},
    "options": {"popular": {"by": "recent"}},
}


class Server:
    """What a server would answer if the known part of the log were all there is.

    Attributes:
        seconds: Duration of each training.
    """

    def __init__(self, known: Known, rules: HistoryRules | None = None, *, trains: bool = True) -> None:
        """
        Args:
            known: What may be known.
            rules: How interactions become weights.
            trains: Whether it learns what strategies need; otherwise it serves as a home that was never trained.
        """
        self._known = known
        self._past = Past(
            known.columns,
            known.vectors,
            rules or HistoryRules(),
            {**TRAINERS, RANKER: RankerTrainer(TRAINERS, known.lists)},
            available=known.part.candidates,
            trains=trains,
            before=known.states,
            settings=known.found,
        )
        self._limits = Limits()
        self._histories: dict[int, list[RecordedHistory]] = {}
        self._networks = Networks()
        self.data = self._past.data
        self.seconds = self._past.seconds

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
        data = self.data(configured.strategy.trainings(configured.options))
        pipeline = Pipeline(registry.choose(_FALLBACK, {}), RankingCache(1))
        asked_us = self._known.part.asked_us
        found: list[tuple[Job, Slate | RequestError]] = []
        for start in range(0, len(users), _BATCH):
            jobs = []
            for history in self._recorded(users[start : start + _BATCH]):
                job = Job(request, configured, data, "")
                now_us = history.newest_us if asked_us is None else asked_us
                build_query(job, profile_of_user(request, history, data.view, self._limits, now_us))
                jobs.append(job)
            self._networks.answer(pipeline, jobs, data)
            found += zip(jobs, pipeline.run(jobs), strict=True)
        return found

    def lists(self) -> Lists:
        """What a ranker may learn from the questions of this part, with the sources that it has by default."""
        strategy, options = Registry().choose(RANKER, {})
        part = self._known.part
        with_history = np.flatnonzero(self._known.activity)
        user, item = part.targets[with_history].nonzero()
        users = part.users[with_history]
        question = Question(self._past, users, users[user], item.astype(np.int64), part.asked_us)
        return listed(question, strategy.trainings(options) - {RANKER}, options)

    def learned(self, name: str) -> Learned | None:
        """See `Past.learned`."""
        return self._past.learned(name)

    def _recorded(self, users: Ints) -> list[RecordedHistory]:
        key = int(users[0])
        kept = self._histories.get(key)
        if kept is None or len(kept) != len(users):
            if len(self._histories) >= _KEPT:
                self._histories.clear()
            own = of_users(self._known.histories, users)
            kept = self._histories[key] = histories_of(own, self._past.rules)
        return kept


# The settings of all strategies are tried one after the other on a part.
server_of = lru_cache(maxsize=1)(Server)


def _prepared(trainings: frozenset[str], known: Known) -> dict[str, float]:
    """Count, and train; the seconds of each training."""
    server = server_of(known)
    server.data(trainings)
    return {name: server.seconds[name] for name in trainings if name in server.seconds}


def by_strategy(name: str, registry: Registry, known: Known, settings: Settings) -> Ranker:
    """Ranks as the slates of a strategy with these options do; nothing where it lacks something."""
    server = server_of(known)
    strategy, options = registry.choose(name, settings)
    if strategy.lacking(server.data(strategy.trainings(options)), options) is not None:
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


def systems(names: Sequence[str] = (), *, quick: bool = False) -> list[System]:
    """A system for every registered strategy that can answer, or for some of them; `auto` is put together from these.

    A strategy that needs a training is trained on each part. One whose training `recserve train all` leaves out is
    only evaluated by name. With `quick` also those are left out whose training is slow.
    """
    registry = Registry()
    vectors = np.ones((1, 1), np.float32)
    view = view_over(vectors, ExactEngine(vectors))
    data = Data(view, LiveFilters(view).of(view), CountsView(no_counts(), view))
    found = []
    for name in registry.names:
        strategy, options = registry.choose(name, {})
        trainings = strategy.trainings(options)
        can_answer = (trainings and trainings <= TRAINERS.keys()) or strategy.lacking(data, options) is None
        trainers = [TRAINERS[of] for of in trainings & TRAINERS.keys()]
        is_asked = name in names if names else all(of.is_for_all and not (quick and of.is_slow) for of in trainers)
        if name == AUTO or not is_asked or not can_answer:
            continue
        found.append(_system(name, registry, "strategy"))
    if not names or SUM in names:
        found.append(_system(SUM, Registry({SUM: _SUM}), "baseline"))
    return found


def _system(name: str, registry: Registry, kind: Kind) -> System:
    strategy, options = registry.choose(name, {})
    trainings = strategy.trainings(options)
    return System(
        name=name,
        kind=kind,
        fit=partial(by_strategy, name, registry),
        grid=tuple(strategy.grid),
        is_personal=strategy.is_personal,
        prepare=partial(_prepared, trainings),
        trainings=trainings,
    )


def trainings_of(chosen: Chosen) -> list[str]:
    """Names of the trainings that what was chosen needs, sorted."""
    registry, found = Registry(), set[str]()
    for choice in (chosen.cold, chosen.few, chosen.many):
        if choice is not None:
            strategy, options = registry.choose(choice.strategy, choice.options)
            found |= strategy.trainings(options)
    return sorted(found)
