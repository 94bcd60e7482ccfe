"""What parts of an evaluation leave to later ones: lists that a ranker learns from, and trainings to go on from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from recserve_benchmarks.evaluation.ranking import Known
from recserve_benchmarks.evaluation.served import server_of
from recserve_benchmarks.evaluation.split import Part
from recserve_benchmarks.evaluation.system import System
from recserve_export.training.ranking.questions import Lists
from recserve_export.training.registry import TRAINERS
from recserve_server_ext.strategies.ranker import NAME as RANKER


class Left(NamedTuple):
    """What earlier parts left for a part.

    Attributes:
        states: What slow trainings go on from, by name.
        lists: What a ranker learns from.
    """

    states: dict[str, Any]
    lists: list[Lists]


class Learning:
    """Keeps what the parts of a protocol leave, only where a system needs it."""

    def __init__(self, parts: Sequence[Part], systems: Sequence[System]) -> None:
        trainings = frozenset[str]().union(*(system.trainings for system in systems))
        self._slow = frozenset(name for name in trainings & TRAINERS.keys() if TRAINERS[name].goes_on)
        self._before = {part.before for part in parts} if self._slow else set()
        self._asked = {name for part in parts for name in part.lists} if RANKER in trainings else set()
        self._states: dict[str, dict[str, Any]] = {}
        self._lists: dict[str, Lists] = {}

    def is_wanted(self, part: Part) -> bool:
        """Whether a later part learns from this one."""
        return part.name in self._before or part.name in self._asked

    def left_for(self, part: Part) -> Left:
        """What was left for a part."""
        states = {} if part.before is None else self._states.get(part.before, {})
        return Left(states, [self._lists[name] for name in part.lists if name in self._lists])

    def leave(self, known: Known) -> None:
        """Keep what later parts learn from this one."""
        server, name = server_of(known), known.part.name
        if name in self._before:
            self._states[name] = server.states(self._slow)
        if name in self._asked:
            self._lists[name] = server.lists()
