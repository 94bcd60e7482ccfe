"""Engine of a space: chosen by what is known of its items, built over all of them, its recall verified there."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np

from recserve_export.index.engine_choice import (
    Elsewhere,
    Settings,
    build_graph,
    build_scan,
    codes_of,
    fit_scan,
    measure_all,
    report_of,
)
from recserve_export.index.engine_trial import Trial, Tried
from recserve_export.index.recall import Choice, CurvePoint, choose, reaches
from recserve_export.index.report import RecallReport, read_report
from recserve_export.stages import Stage, silent
from recserve_server_ext.common import cpu
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.errors import SnapshotError
from recserve_server_ext.index.engines.engine import Engine
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.manifest import read_manifest
from recserve_server_ext.index.pointers import current

#: Items of the sample.
SAMPLE: Final = 10_000
#: The cost of a user grows with these powers of the number of items; docs/decisions/023-choice-by-a-sample.md.
_GROWTH: Final = {"scan": 0.6, "hnsw": 0.9, "exact": 1.2}
#: A choice holds for catalogues up to so many times larger or smaller.
_HOLDS: Final = 2.0


class Chosen(NamedTuple):
    """An engine and its parameters.

    Attributes:
        engine: Name of the engine.
        parameters: What it is built with and searches with.
        items: Items that these were chosen for.
    """

    engine: str
    parameters: dict[str, int]
    items: int


def build_engine(
    vectors: Vectors,
    settings: Settings,
    *,
    logged: Vectors | None = None,
    inputs: Vectors | None = None,
    last: Chosen | None = None,
    stage: Stage = silent,
    elsewhere: Elsewhere | None = None,
) -> tuple[Engine, RecallReport]:
    """Build the engine that serves these vectors at least cost among those that reach the target.

    What was chosen last is built again, and verified over all items. Else the engines are measured over all items where
    these are few, and over a sample where they are many: then only the one that promises to be the cheapest is
    built. Where it misses the target over all items, the next one is.

    Args:
        vectors: [items, dim] float32, at least one.
        settings: How to choose; `thorough` measures every engine over all items.
        logged: [users, dim] vectors of users to measure with; `None` takes made up ones, see `sample_users`.
        inputs: [items, dim] vectors of items as behaviours, where they are others.
        last: What was chosen for an older catalogue like this one, see `last_choice`.
        stage: Shows progress.
        elsewhere: Builds the engine `milvus`, where it was asked for.

    Raises:
        SnapshotError: `scan` was asked for, and there are too few items to train its codes on.
    """
    if settings.thorough or elsewhere is not None:
        return measure_all(vectors, settings, logged=logged, inputs=inputs, stage=stage, elsewhere=elsewhere)
    return _Build(vectors, inputs, logged, settings, stage).made(last)


def last_choice(snapshots: Path, space: str, shape: tuple[int, ...], settings: Settings) -> Chosen | None:
    """What was chosen for a space of the published snapshot, where it holds for vectors of this shape.

    `None` without one, or where it was chosen for another target or CPU, or many more or fewer items.
    """
    items, dim = shape
    try:
        folder = current(snapshots)
        of, report = read_manifest(folder, verify=False).spaces[space], read_report(folder, space)
    except (SnapshotError, KeyError):
        return None
    is_asked = of.engine.name == settings.engine or (settings.engine == "auto" and of.engine.name != "milvus")
    is_alike = (of.dim, of.recall_target, report.cpu) == (dim, settings.recall, cpu.model_name())
    is_near = 1 / _HOLDS <= items / of.vectors <= _HOLDS
    holds = is_asked and is_alike and is_near and report.choice.reached
    return Chosen(of.engine.name, of.engine.parameters, of.vectors) if holds else None


@dataclass(frozen=True)
class _Build:
    """One choice; for the attributes see `build_engine`. `tried` has what was measured over all items."""

    vectors: Vectors
    inputs: Vectors | None
    logged: Vectors | None
    settings: Settings
    stage: Stage
    tried: list[Tried] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("sample", "build", "verify"), 0.0))

    def made(self, last: Chosen | None) -> tuple[Engine, RecallReport]:
        """The engine of `build_engine`, and its report."""
        if last is not None and self._holds(last):
            return self._done([], from_last=True)
        if len(self.vectors) <= SAMPLE:
            with self._timed("sample"):
                self.tried.extend(self.whole.engines())
            return self._done([])
        with self._timed("sample"):
            sampled = [one.point for one in self._sample().engines()]
        any(self._holds(chosen) for chosen in self._by_cost(sampled))  # until one does
        return self._done(sampled)

    @cached_property
    def whole(self) -> Trial:
        """The trial over all items."""
        return Trial.of(self.vectors, self.inputs, self.logged, self.settings, self.stage)

    def _sample(self) -> Trial:
        """The trial over a sample of the items."""
        random = np.random.default_rng(self.settings.seed)
        rows = np.sort(random.choice(len(self.vectors), SAMPLE, replace=False))
        inputs = None if self.inputs is None else self.inputs[rows]
        return Trial.of(self.vectors[rows], inputs, self.logged, self.settings, self.stage)

    def _by_cost(self, sampled: list[CurvePoint]) -> Iterator[Chosen]:
        """The engines that may be taken, by rising cost over all items as the sample promises it.

        Those that reached the target over the sample, each followed by larger ones. Where none did, all, in turn.
        """
        asked, target = self.settings.engine, self.settings.recall
        able = [point for point in sampled if asked in ("auto", point.engine)]
        good = [point for point in able if reaches(point, target)] or able
        seen: set[tuple[str, int | None, int | None]] = set()
        for point in sorted(good, key=lambda point: expected_cost(point, len(self.vectors))):
            for chosen in self._larger(point):
                of = chosen.engine, chosen.parameters.get("M"), chosen.parameters.get("codes")
                if of not in seen:
                    seen.add(of)
                    yield chosen

    def _larger(self, point: CurvePoint) -> Iterator[Chosen]:
        """An engine of a sample for all items; then with more links or codes, for where it misses the target."""
        of, settings = point.parameters, self.settings
        chosen = Chosen(point.engine, of, point.items)
        yield chosen
        if point.engine == "hnsw":
            wider = [m for m in (*settings.m, settings.m_if_missed) if m > of["M"]]
            yield from (chosen._replace(parameters={**of, "M": m}) for m in wider)
        if point.engine == "scan":
            more = [codes for codes in codes_of(self.vectors.shape[1], settings) if codes > of["codes"]]
            yield from (chosen._replace(parameters={**of, "codes": codes}) for codes in more)

    def _holds(self, chosen: Chosen) -> bool:
        """Build an engine over all items and search as widely as it takes; whether it reaches the target."""
        with self._timed("build"):
            engine = self._built(chosen)
        with self._timed("verify"):
            self.tried.append(self.whole.cheapest(engine))
        return reaches(self.tried[-1].point, self.settings.recall)

    def _built(self, chosen: Chosen) -> Engine:
        of, vectors, settings = chosen.parameters, self.vectors, self.settings
        if chosen.engine == "hnsw":
            return build_graph(vectors, of["M"], settings, self.stage).with_parameters({"ef": of["ef"]})
        if chosen.engine == "scan":
            grown = 2 ** round(math.log2(len(vectors) / chosen.items))
            lists = max(1, round(of["lists"] * grown))
            fit = fit_scan(vectors, vectors if self.inputs is None else self.inputs, of["codes"], settings)
            return build_scan(vectors, fit, of["codes"], lists, settings, self.stage)
        return ExactEngine(vectors)

    def _done(self, sampled: list[CurvePoint], *, from_last: bool = False) -> tuple[Engine, RecallReport]:
        """The best of what was measured over all items, and the report of that and of the samples."""
        asked = self.settings.engine
        able = [one for one in self.tried if asked in ("auto", one.point.engine)]
        choice = choose([one.point for one in able], self.settings.recall)
        best = able[choice.point]
        points = [*sampled, *(one.point for one in self.tried)]
        place = next(at for at, point in enumerate(points) if point is best.point)
        report = report_of(self.whole.users, self.vectors, self.settings, Choice(place, choice.reached), points)
        seconds = {name: round(spent, 3) for name, spent in self.seconds.items()}
        return best.engine, msgspec.structs.replace(report, from_last=from_last, seconds=seconds)

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[what] += time.perf_counter() - begin


def expected_cost(point: CurvePoint, items: int) -> float:
    """CPU time a user over `items` items, in microseconds, from what was measured over fewer."""
    return point.cpu_us_per_user * math.pow(items / point.items, _GROWTH[point.engine])
