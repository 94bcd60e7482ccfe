"""What parts of an evaluation leave to later ones: lists that a ranker learns from, and trainings to go on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from recserve_benchmarks.evaluation.ranking import Known
from recserve_benchmarks.evaluation.served import server_of
from recserve_benchmarks.evaluation.split import Part
from recserve_benchmarks.evaluation.system import System
from recserve_export.training.ranking.questions import Lists
from recserve_export.training.registry import TRAINERS
from recserve_server_ext.strategies.ranker import NAME as RANKER


class Learning:
    """Keeps what the parts of a protocol leave, only where a system needs it."""

    def __init__(self, parts: Sequence[Part], systems: Sequence[System]) -> None:
        trainings = frozenset[str]().union(*(system.trainings for system in systems))
        self._slow = sorted(name for name in trainings & TRAINERS.keys() if TRAINERS[name].goes_on)
        self._before = {part.before for part in parts} if self._slow else set()
        self._asked = {name for part in parts for name in part.lists} if RANKER in trainings else set()
        self._states: dict[str, dict[str, Any]] = {}
        self._found: dict[str, Mapping[str, Any]] = {}
        self._lists: dict[str, Lists] = {}

    def is_wanted(self, part: Part) -> bool:
        """Whether a later part learns from this one."""
        return part.name in self._before or part.name in self._asked

    def left_for(self, part: Part) -> dict[str, Any]:
        """What was left for a part; see `Known`."""
        return {
            "states": {} if part.before is None else self._states.get(part.before, {}),
            "found": dict(self._found),
            "lists": [self._lists[name] for name in part.lists if name in self._lists],
        }

    def leave(self, known: Known, show: Callable[[str], None]) -> dict[str, float]:
        """Keep what later parts learn from this one; the seconds of each training, by name.

        Args:
            known: The part.
            show: Called with the name of each training before it begins.
        """
        server, part = server_of(known), known.part.name
        before = set(server.seconds)
        for name in self._slow if part in self._before else ():
            show(name)
            learned = server.learned(name)
            if learned is not None:
                self._states.setdefault(part, {})[name] = learned.state
                # Searched once: the first part that is trained anew decides for all.
                self._found.setdefault(name, learned.found)
        if part in self._asked:
            show(RANKER)
            self._lists[part] = server.lists()
        return {name: seconds for name, seconds in server.seconds.items() if name not in before}
