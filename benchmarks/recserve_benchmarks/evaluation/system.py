"""A system of an evaluation: a name, settings to choose from, and rankings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from recserve_benchmarks.evaluation.ranking import LENGTH, Known, ranked
from recserve_server_ext.common.arrays import Ints, Scores

Settings = Mapping[str, Any]
Kind = Literal["baseline", "strategy"]
#: The best `LENGTH` items [n, LENGTH] of users, given by their places in the part; -1 after the last.
Ranker = Callable[[Ints], Ints]
#: Scores [n, items] of users, given by their places in the part; -inf where an item is not ranked.
Scorer = Callable[[Ints], Scores]
#: Name of the system that takes the best strategy for each activity of a user.
AUTO: Final = "auto"


@dataclass(frozen=True, kw_only=True)
class System:
    """What is evaluated.

    Attributes:
        name: Shown in tables.
        kind: Whether it is served, or there to compare with.
        fit: Learns from what is known, with settings; gives the rankings of users.
        grid: Settings to choose from on validation.
        is_personal: Whether it needs a history.
        prepare: Makes what systems of this kind share, once for a part; the seconds of each training, by name.
        trainings: What is trained for it.
    """

    name: str
    kind: Kind
    fit: Callable[[Known, Settings], Ranker]
    grid: tuple[Settings, ...] = ({},)
    is_personal: bool = True
    prepare: Callable[[Known], Mapping[str, float]] | None = None
    trainings: frozenset[str] = frozenset()


def by_scores(score: Callable[[Known], Scorer]) -> Callable[[Known, Settings], Ranker]:
    """The `fit` of a system without settings that scores all items."""

    def fit(known: Known, _: Settings) -> Ranker:
        scorer = score(known)
        return lambda users: ranked(scorer(users), known, users, LENGTH)

    return fit


def nothing(users: Ints) -> Ints:
    """No item for anybody."""
    return np.full((len(users), LENGTH), -1, np.int64)
