"""Engines tried on some items: the cheapest parameters of each that reach the target, found by recall, timed once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from recserve_export.index.engine_choice import (
    Settings,
    between,
    build_graph,
    build_scan,
    can_scan,
    codes_of,
    fit_scan,
    lists_of,
    probes_of,
    walk_border,
)
from recserve_export.index.recall import CurvePoint, Users, measure, reaches, recalls, sample_users, users_of_log
from recserve_export.stages import Stage
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.index.engines.engine import Engine
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.engines.hnsw import HnswEngine

#: Most users of each kind.
_MOST_USERS: Final = 300
#: Users of each kind that are timed.
_TIMED: Final = 96
#: More links make a graph at most this much cheaper; docs/decisions/003-hnsw-parameters.md.
_BY_LINKS: Final = 1.5
#: A graph that has to be searched wider than this is tried with more links; docs/decisions/003-hnsw-parameters.md.
_WIDE: Final = 256


class Tried(NamedTuple):
    """An engine with the parameters it has, and what was measured of it."""

    engine: Engine
    point: CurvePoint


@dataclass(frozen=True)
class Trial:
    """Items, all or a sample, and users to try engines with; for the attributes see `measure_all`."""

    vectors: Vectors
    inputs: Vectors
    users: Users
    settings: Settings
    stage: Stage

    @classmethod
    def of(
        cls, vectors: Vectors, inputs: Vectors | None, logged: Vectors | None, settings: Settings, stage: Stage
    ) -> Trial:
        """A trial over these items, with at most 300 users of each kind."""
        count = min(settings.users, _MOST_USERS)
        if logged is not None:
            users = users_of_log(vectors, logged[:count])
        else:
            users = sample_users(vectors, count=count, seed=settings.seed, inputs=inputs)
        return cls(vectors, vectors if inputs is None else inputs, users, settings, stage)

    def engines(self) -> Iterator[Tried]:
        """The engines that were asked for, each as cheap as reaches the target; then the exact one, to compare with."""
        asked, least = self.settings.engine, math.inf
        if asked in ("auto", "scan") and can_scan(len(self.vectors), self.settings):
            for found in self._scans():
                yield found
                if reaches(found.point, self.settings.recall):
                    least = found.point.cpu_us_per_user
        if asked in ("auto", "hnsw"):
            yield from self._graphs(least)
        yield self.tried(ExactEngine(self.vectors))

    def tried(self, engine: Engine) -> Tried:
        """An engine with its recall and cost."""
        return Tried(engine, measure(engine, self.users, _TIMED))

    def reaches(self, engine: Engine) -> bool:
        """Whether an engine reaches the target."""
        return reaches(recalls(engine, self.users), self.settings.recall)

    def cheapest(self, engine: Engine) -> Tried:
        """An engine searched as widely as it takes to reach the target, or as the settings allow."""
        if isinstance(engine, HnswEngine):
            return self.tried(self._wide_graph(engine))
        return self._cheapest_scan(engine) if engine.name == "scan" else self.tried(engine)

    def _graphs(self, least: float) -> Iterator[Tried]:
        """The graph with the fewest links, then more where that misses the target or has to be searched widely.

        `least` is the cost of another engine: where more links make no graph as cheap, none is built.
        """
        for m in (*self.settings.m, self.settings.m_if_missed):
            found = self.cheapest(build_graph(self.vectors, m, self.settings, self.stage))
            yield found
            is_narrow = reaches(found.point, self.settings.recall) and found.point.parameters["ef"] <= _WIDE
            if is_narrow or found.point.cpu_us_per_user > _BY_LINKS * least:
                return

    def _wide_graph(self, engine: Engine) -> Engine:
        """With about the least `ef`, that of the engine or more, that reaches the target."""
        missed, ef, most = 0, engine.parameters["ef"], max(self.settings.ef)
        with self.stage(f"measure recall, M {engine.parameters['M']}", None):
            while not self.reaches(engine.with_parameters({"ef": ef})) and ef < most:
                missed, ef = ef, min(2 * ef, most)
            while missed and (middle := between(missed, ef)) is not None:
                if self.reaches(engine.with_parameters({"ef": middle})):
                    ef = middle
                else:
                    missed = middle
        return engine.with_parameters({"ef": ef})

    def _scans(self) -> Iterator[Tried]:
        """The scans with the fewest codes, short lists and long ones, then more codes where those miss the target."""
        items, settings = len(self.vectors), self.settings
        for codes in codes_of(self.vectors.shape[1], settings):
            fit = fit_scan(self.vectors, self.inputs, codes, settings)
            is_reached = False
            for lists in sorted({lists_of(items, wanted) for wanted in settings.items_per_list}):
                found = self.cheapest(build_scan(self.vectors, fit, codes, lists, settings, self.stage))
                yield found
                is_reached |= reaches(found.point, settings.recall)
            if is_reached:
                return

    def _cheapest_scan(self, engine: Engine) -> Tried:
        """The cheapest along the border of what reaches the target; the widest search where nothing does."""
        probes, least = probes_of(engine.parameters["lists"]), dict[int, int]()

        def reached(at: int, rescored: int) -> bool:
            is_reached = self.reaches(engine.with_parameters({"nprobe": probes[at], "rescored": rescored}))
            if is_reached:
                least[rescored] = probes[at]
            return is_reached

        with self.stage("measure recall of scan", None):
            walk_border(len(probes), self.settings.rescored, reached)
            border = least or {max(self.settings.rescored): probes[0]}
            found = [
                self.tried(engine.with_parameters({"nprobe": nprobe, "rescored": rescored}))
                for rescored, nprobe in border.items()
            ]
        return min(found, key=lambda one: one.point.cpu_us_per_user)
