"""Chooses settings, and a strategy for each activity of a user, on validation parts only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from scipy import stats

from recserve_benchmarks.evaluation.system import System
from recserve_server_ext.common.arrays import Floats, Ints, Mask
from recserve_server_ext.strategies.parts.chosen import MOST_FEW, Activity, Choice, Chosen

#: What settings are chosen by: its mean over users with a history.
CHOSEN_BY: Final = "ndcg_at_10"
ACTIVITIES: Final[tuple[Activity, ...]] = ("cold", "few", "many")
#: With fewer users of an activity on validation, all of them decide.
_LEAST_USERS: Final = 30


class Trial(NamedTuple):
    """A system with one of its settings.

    Attributes:
        system: Place of the system.
        settings: Place of the settings in its grid.
    """

    system: int
    settings: int


def of_activity(activity: Activity, interactions: Ints) -> Mask:
    """[users] whether a user with so many known interactions has this activity."""
    bounds = {"cold": (0, 0), "few": (1, MOST_FEW), "many": (MOST_FEW + 1, np.inf)}
    least, most = bounds[activity]
    return np.asarray((interactions >= least) & (interactions <= most))


class Votes:
    """What each trial reached on the validation parts so far."""

    def __init__(self, systems: Sequence[System]) -> None:
        self._systems = systems
        self._interactions: list[Ints] = []
        self._values: dict[Trial, list[Floats]] = defaultdict(list)

    def add(self, interactions: Ints, values: dict[Trial, Floats]) -> None:
        """Add a part.

        Args:
            interactions: [users] number of known interactions.
            values: [users] what each user got by each trial.
        """
        self._interactions.append(interactions)
        for trial, of_users in values.items():
            self._values[trial].append(of_users)

    def best_settings(self, system: int) -> int:
        """Place of the settings of a system that are best for users with a history; 0 before any part."""
        tried = self.tried(system)
        return int(np.argmax(tried)) if self._interactions else 0

    def tried(self, system: int) -> list[float]:
        """Mean of each settings of a system over the users with a history."""
        trials = [Trial(system, place) for place in range(len(self._systems[system].grid))]
        return [self._mean(trial, self._all() > 0) for trial in trials]

    def described(self, system: int) -> list[dict[str, Any]]:
        """The settings of a system and what each of them reached."""
        grid = self._systems[system].grid
        return [
            {"settings": msgspec.to_builtins(settings), CHOSEN_BY: reached}
            for settings, reached in zip(grid, self.tried(system), strict=True)
        ]

    def best(self, activity: Activity) -> Trial | None:
        """The trial of a strategy that is best for users of an activity; `None` before any part.

        Users with a history get what suits all of them, unless another is better for their activity by more than a
        standard error of the paired difference. With few cold users, those get what is best for everybody among the
        strategies that need no history.
        """
        if not self._interactions:
            return None
        interactions = self._all()
        users = of_activity(activity, interactions)
        # Equal figures come from the same fallback: the strategy that needs no history is named.
        trials = sorted(self._values, key=lambda trial: self._systems[trial.system].is_personal)
        trials = [trial for trial in trials if self._systems[trial.system].kind == "strategy"]
        if activity == "cold":
            if users.sum() < _LEAST_USERS:
                trials = [trial for trial in trials if not self._systems[trial.system].is_personal]
                users = np.ones(len(users), np.bool_)
            return self._first(trials, users)
        overall, own = self._most_combined(trials, interactions > 0), self._most_combined(trials, users)
        if overall is None or own is None or users.sum() < _LEAST_USERS:
            return overall
        gain = self._of(own)[users] - self._of(overall)[users]
        return own if gain.mean() > stats.sem(gain) else overall

    def _first(self, trials: Sequence[Trial], users: Mask) -> Trial | None:
        """The trial with the greatest mean over some users, the first of equal ones; `None` without any."""
        return max(trials, key=lambda trial: self._mean(trial, users)) if trials and users.any() else None

    def _most_combined(self, trials: Sequence[Trial], users: Mask) -> Trial | None:
        """The trial that combines the most trainings, of those within a standard error of the best over some users.

        Where no combination is as close, it is the best trial. The best of many is partly so by luck, and a combination
        is rarely far below its best part. The one-standard-error rule of Breiman, Friedman, Olshen and Stone (1984)
        takes the simplest instead.
        """
        best = self._first(trials, users)
        if best is None or users.sum() < 2:
            return best
        trainings = {trial: len(self._systems[trial.system].trainings) for trial in trials}
        of_best = self._of(best)[users]
        lags = {trial: of_best - self._of(trial)[users] for trial, count in trainings.items() if count > 1}
        close = [trial for trial, lag in lags.items() if lag.mean() <= stats.sem(lag)]
        return max(close, key=lambda trial: (trainings[trial], -lags[trial].mean()), default=best)

    def best_system(self) -> int | None:
        """Place of the strategy that is best for users with a history; `None` without any."""
        reached = {
            place: max(self.tried(place)) for place, system in enumerate(self._systems) if system.kind == "strategy"
        }
        return max(reached, key=lambda place: reached[place]) if reached and self._interactions else None

    def chosen(self) -> Chosen:
        """What `auto` is to serve."""
        return Chosen(**{activity: self._choice(self.best(activity)) for activity in ACTIVITIES})

    def _choice(self, trial: Trial | None) -> Choice | None:
        if trial is None:
            return None
        system = self._systems[trial.system]
        options: dict[str, Any] = msgspec.to_builtins(system.grid[trial.settings])
        return Choice(system.name, options)

    def _all(self) -> Ints:
        return np.concatenate(self._interactions) if self._interactions else np.empty(0, np.int64)

    def _mean(self, trial: Trial, users: Mask) -> float:
        return float(self._of(trial)[users].mean()) if trial in self._values and users.any() else 0.0

    def _of(self, trial: Trial) -> Floats:
        return np.concatenate(self._values[trial])
