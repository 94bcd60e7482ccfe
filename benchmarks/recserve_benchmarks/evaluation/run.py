"""The evaluation: settings are chosen on validation parts, then measured on the parts that follow them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.evaluation import memory
from recserve_benchmarks.evaluation.choice import ACTIVITIES, CHOSEN_BY, Trial, Votes, of_activity
from recserve_benchmarks.evaluation.learning import Learning
from recserve_benchmarks.evaluation.log.data import Dataset
from recserve_benchmarks.evaluation.metrics import Lists, accuracy, item_kinds
from recserve_benchmarks.evaluation.ranking import LENGTH, Known, known_to
from recserve_benchmarks.evaluation.reporting.figures import Observations
from recserve_benchmarks.evaluation.split import CUTS, PROTOCOLS, Part, Protocol, Splitter, is_by_user
from recserve_benchmarks.evaluation.system import AUTO, Ranker, System
from recserve_benchmarks.harness.report import machine
from recserve_benchmarks.harness.run import Show
from recserve_server_ext.common.arrays import Ints
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.strategies.parts.chosen import Chosen, EvaluationFile
from recserve_server_ext.strategies.registry import Registry

#: Users of a part at most, unless asked otherwise.
MOST_USERS: Final = 2000
_NOT_STARTED: Final = "nothing is left to be found: the log has too few interactions"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to evaluate.

    Attributes:
        seeds: Of what breaks ties; the leave-one-out test is repeated with each.
        most_users: Users of a part at most, drawn at random; `None` for all.
        memory_bytes: Memory that may be used.
        protocols: The questions that are asked.
        cuts: See `Splitter`.
    """

    seeds: Sequence[int] = (0, 1, 2)
    most_users: int | None = MOST_USERS
    memory_bytes: int = field(default_factory=memory.default_bound)
    protocols: Sequence[Protocol] = PROTOCOLS
    cuts: Sequence[float] = CUTS


def evaluate(dataset: Dataset, systems: Sequence[System], plan: Plan, show: Show) -> EvaluationFile:
    """Measure systems by both protocols, and choose what `auto` is to serve.

    Raises:
        BenchmarkError: The log is too small to ask for anything, or too large for the memory.
    """
    start = time.perf_counter()
    evaluation = _Evaluation(dataset, systems, plan, show)
    chosen: dict[str, Chosen] = {}
    protocols: dict[str, dict[str, Any]] = {}
    for protocol in evaluation.protocols:
        figures, votes = evaluation.by_protocol(protocol)
        if figures:
            protocols[protocol], chosen[protocol] = figures, votes.chosen()
    if not protocols:
        raise BenchmarkError(_NOT_STARTED)
    data = {**evaluation.described(), "seconds": time.perf_counter() - start}
    # By time nothing of the future is known: that is what a server will face.
    best = chosen.get("time", Chosen())
    fallback = chosen.get("leave_one_out", Chosen())
    picked = {activity: getattr(best, activity) or getattr(fallback, activity) for activity in ACTIVITIES}
    return EvaluationFile(data=data, protocols=protocols, seconds=dict(evaluation.seconds), chosen=Chosen(**picked))


class _Evaluation:
    """What the parts share.

    Attributes:
        protocols: The questions that are asked.
        seconds: Duration by system: learning and ranking, over all parts and settings.
        parts: What each part asked for.
    """

    def __init__(self, dataset: Dataset, systems: Sequence[System], plan: Plan, show: Show) -> None:
        items, dim = dataset.vectors.shape
        self._dataset, self._systems, self._plan, self._show = dataset, systems, plan, show
        self._block = memory.users_at_once(plan.memory_bytes, len(dataset.columns.time_us), items, dim)
        show("kinds of items", 0, 1)
        self._kinds = item_kinds(dataset.vectors)
        # By time nothing can be asked of a log that has one user after the other.
        self._is_by_user = is_by_user(dataset.columns)
        self.protocols: Sequence[Protocol] = ("leave_one_out",) if self._is_by_user else plan.protocols
        self._splitter = Splitter(dataset.columns, plan.seeds, plan.most_users, plan.cuts)
        self.seconds: dict[str, float] = defaultdict(float)
        self._peak_mib: dict[str, float] = defaultdict(float)
        self.parts: list[dict[str, Any]] = []
        self._shared_s = self._highest_mib = 0.0

    def by_protocol(self, protocol: Protocol) -> tuple[dict[str, Any], Votes]:
        """The figures of a protocol, empty where it asks for nothing; and what was voted for on its validation."""
        votes, observed = Votes(self._systems), Observations(self._systems)
        parts = self._splitter.parts(protocol)
        learning = Learning(parts, self._systems)
        for part in parts:
            if part.is_validation or part.is_test or learning.is_wanted(part):
                self._measure(protocol, part, learning, votes, observed)
        if not observed:
            return {}, votes
        best = votes.best_system()
        reference = self._systems[0].name if best is None else self._systems[best].name
        figures = observed.figures(reference, self._plan.seeds[0])
        for place, system in enumerate(self._systems):
            of = figures[system.name]
            of["validation"] = votes.described(place)
            of["peak_mib"] = self._peak_mib[system.name]
        return figures, votes

    def _measure(
        self, protocol: Protocol, part: Part, learning: Learning, votes: Votes, observed: Observations
    ) -> None:
        known = known_to(part, self._dataset.columns, self._dataset.vectors, **learning.left_for(part))
        self._describe(protocol, known)
        if not (part.is_validation or part.is_test):
            self._leave(protocol, known, learning)
            return
        rankings = self._rankings(f"{protocol}: {part.name}", known, self._trials(part, votes))
        if learning.is_wanted(part):
            self._leave(protocol, known, learning)
        if part.is_test:
            observed.begin(known, Lists(known, self._kinds))
            for place, system in enumerate(self._systems):
                observed.add(system.name, rankings[Trial(place, votes.best_settings(place))])
            of_young = None if part.candidates is None else self._of_young()
            of_auto = _auto(known.activity, rankings, votes) if of_young is None else rankings[of_young]
            observed.add(AUTO, of_auto)
        if part.is_validation:
            names = (CHOSEN_BY,)
            reached = {trial: accuracy(of, part.targets, names)[CHOSEN_BY] for trial, of in rankings.items()}
            votes.add(known.activity, reached)

    def _leave(self, protocol: Protocol, known: Known, learning: Learning) -> None:
        """Keep what later parts learn from this one."""
        start = time.perf_counter()
        trainings = learning.leave(
            known, lambda name: self._show(f"{protocol}: {known.part.name}: learn for {name}", 0, 1)
        )
        self._note(start, trainings)

    def _trials(self, part: Part, votes: Votes) -> list[Trial]:
        """All settings on validation; otherwise those that are best so far, overall or for an activity."""
        every = [Trial(place, n) for place, system in enumerate(self._systems) for n in range(len(system.grid))]
        if part.is_validation:
            return every
        wanted = {Trial(place, votes.best_settings(place)) for place in range(len(self._systems))}
        wanted |= {trial for activity in ACTIVITIES if (trial := votes.best(activity)) is not None}
        wanted |= {trial for trial in (self._of_young(),) if trial is not None and part.candidates is not None}
        return [trial for trial in every if trial in wanted]

    def _of_young(self) -> Trial | None:
        """What ranks young items in the places that a server keeps for them; `None` where it is not evaluated."""
        grid_of = {system.name: (place, system.grid) for place, system in enumerate(self._systems)}
        for name, given in Registry().new_item_options().items():
            if name in grid_of and given in grid_of[name][1]:
                place, grid = grid_of[name]
                return Trial(place, grid.index(given))
        return None

    def _rankings(self, what: str, known: Known, trials: Sequence[Trial]) -> dict[Trial, Ints]:
        found: dict[Trial, Ints] = {}
        self._prepare(known)
        for done, trial in enumerate(trials):
            system = self._systems[trial.system]
            self._show(f"{what}: {system.name}", done, len(trials))
            start = time.perf_counter()
            with memory.peak_memory() as peak:
                found[trial] = self._ranked(system.fit(known, system.grid[trial.settings]), known)
            self.seconds[system.name] += time.perf_counter() - start
            self._peak_mib[system.name] = max(self._peak_mib[system.name], peak.mib)
            self._highest_mib = max(self._highest_mib, peak.before_mib, peak.mib)
        return found

    def _prepare(self, known: Known) -> None:
        """Count and train, which systems share, so that the first of them does not pay for it."""
        start = time.perf_counter()
        trainings: dict[str, float] = {}
        for system in self._systems:
            if system.prepare is not None:
                self._show(f"prepare {system.name}", 0, 1)
                trainings |= system.prepare(known)
        self._note(start, trainings)

    def _note(self, start: float, trainings: Mapping[str, float]) -> None:
        """Note what took since a moment: trainings for their systems, the rest for all."""
        self._shared_s += time.perf_counter() - start - sum(trainings.values())
        for name, seconds in trainings.items():
            self.seconds[name] += seconds

    def _ranked(self, rank: Ranker, known: Known) -> Ints:
        users = np.arange(len(known.part.users))
        blocks = [rank(users[start : start + self._block]) for start in range(0, len(users), self._block)]
        return np.concatenate([np.empty((0, LENGTH), np.int64), *blocks])

    def _describe(self, protocol: Protocol, known: Known) -> None:
        part = known.part
        self.parts.append(
            {
                "protocol": protocol,
                "name": part.name,
                "known_interactions": len(known.columns.time_us),
                "users": len(part.users),
                "sample_of_users": part.asked,
                "cold_users": int((known.activity == 0).sum()),
                "targets": int(part.targets.nnz),
                "is_validation": part.is_validation,
                "is_test": part.is_test,
                "is_held_out": part.candidates is not None,
            }
        )

    def described(self) -> dict[str, Any]:
        """What was evaluated, and how."""
        columns, vectors = self._dataset.columns, self._dataset.vectors
        return {
            **machine(),
            **self._dataset.source,
            "evaluated": datetime.now(UTC).isoformat(timespec="seconds"),
            "users": int((np.diff(columns.offsets) > 0).sum()),
            "items": len(vectors),
            "items_with_text": int(vectors.any(axis=1).sum()),
            "interactions": len(columns.time_us),
            "is_by_user": self._is_by_user,
            "newest": int(columns.time_us.max()) / MICROSECONDS,
            "seeds": list(self._plan.seeds),
            "memory_mib": self._plan.memory_bytes // 2**20,
            "users_at_once": self._block,
            "shared_s": self._shared_s,
            "peak_mib": self._highest_mib,
            "parts": self.parts,
        }


def _auto(activity: Ints, rankings: dict[Trial, Ints], votes: Votes) -> Ints:
    """The rankings by the best strategy for the activity of each user."""
    found = np.full((len(activity), LENGTH), -1, np.int64)
    for name in ACTIVITIES:
        trial, users = votes.best(name), of_activity(name, activity)
        if trial is not None:
            found[users] = rankings[trial][users]
    return found
