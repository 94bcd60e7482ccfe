"""Engine choice by measuring every engine over all items: settings, curves, the cheapest that reaches the target."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from recserve_export.index.recall import (
    Choice,
    CurvePoint,
    Users,
    choose,
    measure,
    reaches,
    sample_users,
    users_of_log,
    users_to_fit,
)
from recserve_export.index.report import RecallReport
from recserve_export.stages import Stage, silent
from recserve_server_ext.common import cpu
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.errors import SnapshotError
from recserve_server_ext.index.engines.engine import Engine
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.engines.hnsw import HnswEngine

if TYPE_CHECKING:
    from recserve_server_ext.index.engines.scan import ScanEngine
    from recserve_server_ext.index.engines.scan_fit import Fit

EngineName = Literal["auto", "hnsw", "scan", "exact", "milvus"]
#: Widths of HNSW's search between those of the settings are multiples of this.
_EF_STEP = 16


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the engine and its parameters are chosen.

    Attributes:
        engine: The engine to use; `auto` takes the cheapest of those in this process that reaches the target.
        recall: Target of recall@10 for user vectors of both kinds.
        m: Graphs of `hnsw` to build.
        m_if_missed: One more graph, where nothing reaches the target.
        ef_construction: Width of the search for neighbours in building a graph.
        ef: Widths of search to measure on each graph first.
        refinements: Most further widths, between the last that misses the target and the first that reaches it.
        items_per_list: Mean lengths of the inverted lists of `scan` to try.
        dims_per_code: Dimensions of a vector for each code of `scan`; the next where nothing reaches the target.
        rescored: Items that `scan` scores exactly where ten are wanted, to try; falling.
        users: User vectors of each kind.
        seed: Seed of the users and of the graph.
        threads: Threads of building and measuring; `None` takes the usable cores.
        thorough: Measure every engine over all items, instead of what a sample of them promises.
    """

    engine: EngineName = "auto"
    recall: float = 0.98
    m: tuple[int, ...] = (16, 32)
    m_if_missed: int = 48
    ef_construction: int = 200
    ef: tuple[int, ...] = (64, 128, 256, 512, 1024)
    refinements: int = 3
    items_per_list: tuple[int, ...] = (1024, 256)
    dims_per_code: tuple[int, ...] = (3, 2)
    rescored: tuple[int, ...] = (640, 480, 320, 240, 160, 120, 100, 80, 60)
    users: int = 500
    seed: int = 0
    threads: int | None = None
    thorough: bool = False


class Curve(NamedTuple):
    """What was measured of one engine with several search parameters."""

    points: list[CurvePoint]
    engine: Engine


#: Builds one index and measures it with these users.
Elsewhere = Callable[[Users], Curve]


def measure_all(
    vectors: Vectors,
    settings: Settings,
    *,
    logged: Vectors | None = None,
    inputs: Vectors | None = None,
    stage: Stage = silent,
    elsewhere: Elsewhere | None = None,
) -> tuple[Engine, RecallReport]:
    """Build the candidates, measure them and keep the cheapest one that reaches the target.

    Args:
        vectors: [items, dim] float32, at least one.
        settings: How to choose.
        logged: [users, dim] vectors of users to measure with; `None` takes made up ones, see `sample_users`.
        inputs: [items, dim] vectors of items as behaviours, where they are others.
        stage: Shows progress.
        elsewhere: Builds the engine `milvus`, where it was asked for.

    Raises:
        SnapshotError: `scan` was asked for, and there are too few items to train its codes on.
    """
    users = None if logged is None else users_of_log(vectors, logged)
    users = users or sample_users(vectors, count=settings.users, seed=settings.seed, inputs=inputs)
    points: list[CurvePoint] = []
    best: Engine = ExactEngine(vectors)
    candidates = _Candidates(vectors, vectors if inputs is None else inputs, users, settings, stage, points)
    curves = candidates.curves() if elsewhere is None else [elsewhere(users)]
    for curve in curves:
        points += curve.points
        chosen = points[choose(points, settings.recall).point]
        if any(chosen is point for point in curve.points):
            best = curve.engine.with_parameters(chosen.parameters)  # the memory of the one before is released
    exact = ExactEngine(vectors)
    with stage("measure exact search", 1) as advance:
        points.append(measure(exact, users))
        advance(1)
    is_candidate = settings.engine in ("auto", "exact")
    choice = choose(points if is_candidate else points[:-1], settings.recall)
    if choice.point == len(points) - 1:
        best = exact
    return best, report_of(users, vectors, settings, choice, points)


@dataclass(frozen=True)
class _Candidates:
    """The indexes to choose among, each built and measured in turn; `points` are those of all that were measured."""

    vectors: Vectors
    inputs: Vectors
    users: Users
    settings: Settings
    stage: Stage
    points: list[CurvePoint]

    def curves(self) -> Iterator[Curve]:
        """The curve of one index after another."""
        settings = self.settings
        if settings.engine in ("auto", "scan"):
            yield from self._scan()
        if settings.engine in ("auto", "hnsw"):
            for m in settings.m:
                yield self._hnsw(m)
            if not choose(self.points, settings.recall).reached:
                yield self._hnsw(settings.m_if_missed)

    def _hnsw(self, m: int) -> Curve:
        engine = build_graph(self.vectors, m, self.settings, self.stage)
        return ef_curve(engine, self.users, self.settings, self.stage)

    def _scan(self) -> Iterator[Curve]:
        """A curve for each number of lists, with more codes where all points miss the target."""
        vectors, settings = self.vectors, self.settings
        items, dim = vectors.shape
        if not can_scan(items, settings):
            return
        for codes in codes_of(dim, settings):
            if self.points and choose(self.points, settings.recall).reached:
                return
            fit = fit_scan(vectors, self.inputs, codes, settings)
            for lists in sorted({lists_of(items, wanted) for wanted in settings.items_per_list}):
                engine = build_scan(vectors, fit, codes, lists, settings, self.stage)
                yield Curve(self._scan_points(engine), engine)

    def _scan_points(self, engine: Engine) -> list[CurvePoint]:
        """The points along the border of what reaches the target, see `walk_border`."""
        settings, lists = self.settings, engine.parameters["lists"]
        probes, points = probes_of(lists), list[CurvePoint]()
        most = 2 * len(probes) + len(settings.rescored)
        with self.stage(f"measure recall, {lists} lists", most) as advance:

            def reached(at: int, rescored: int) -> bool:
                points.append(measure(engine.with_parameters({"nprobe": probes[at], "rescored": rescored}), self.users))
                advance(1)
                return reaches(points[-1], settings.recall)

            walk_border(len(probes), settings.rescored, reached)
            advance(most - len(points))
        return points


def walk_border(probes: int, rescored: Sequence[int], reached: Callable[[int, int], bool]) -> None:
    """Walk along the border of what reaches the target by `scan`.

    More lists probed and more items scored exactly never find less. So from the most of both it goes down: fewer lists
    while that reaches the target, then fewer items, with more lists again where these are too few.

    Args:
        probes: Numbers of lists to probe that there are; the first is that of most lists.
        rescored: Items scored exactly, falling.
        reached: Measures with a number of lists, by its place, and of items; says whether that reaches the target.
    """
    at = 0 if reached(0, rescored[0]) else -1
    while 0 <= at < probes - 1 and reached(at + 1, rescored[0]):
        at += 1
    for items in rescored[1:]:
        while at >= 0 and not reached(at, items):
            at -= 1


def ef_curve(engine: Engine, users: Users, settings: Settings, stage: Stage) -> Curve:
    """The points of a graph by rising `ef`: those of the settings, and some about the target."""
    points: list[CurvePoint] = []
    most = len(settings.ef) + settings.refinements
    with stage(f"measure recall, M {engine.parameters['M']}", most) as advance:
        widths = list(settings.ef)
        while widths:
            points.append(measure(engine.with_parameters({"ef": widths.pop(0)}), users))
            advance(1)
            if not widths and len(points) < most:
                refined = next_ef(points, settings.recall)
                widths = [] if refined is None else [refined]
        advance(most - len(points))
    points.sort(key=lambda point: point.parameters["ef"])
    return Curve(points, engine)


def next_ef(points: Sequence[CurvePoint], target: float) -> int | None:
    """The `ef` to measure next, halfway between the last that misses the target and the first that reaches it.

    `None` where the two are within an eighth of each other, or all points of the graph are on one side.
    """
    reaching = [point.parameters["ef"] for point in points if reaches(point, target)]
    high = min(reaching, default=0)
    missing = [point.parameters["ef"] for point in points if point.parameters["ef"] < high]
    if not missing:
        return None
    return between(max(missing), high)


def between(low: int, high: int) -> int | None:
    """An `ef` halfway between these two; `None` where they are within an eighth of each other."""
    middle = round((low + high) / 2 / _EF_STEP) * _EF_STEP
    return middle if low < middle < high and high - low > high / 8 else None


def build_graph(vectors: Vectors, m: int, settings: Settings, stage: Stage) -> HnswEngine:
    """A graph with the least width of search."""
    with stage(f"build graph, M {m}", len(vectors)) as advance:
        return HnswEngine.build(
            vectors,
            m=m,
            ef_construction=settings.ef_construction,
            ef=settings.ef[0],
            threads=settings.threads,
            seed=settings.seed,
            done=advance,
        )


def can_scan(items: int, settings: Settings) -> bool:
    """Whether there are items enough to train the codes of `scan` on.

    Raises:
        SnapshotError: There are not, and `scan` was asked for.
    """
    # Here, since loading faiss takes a while and only this engine needs it.
    from recserve_server_ext.index.engines.scan import LEAST_ITEMS

    if items < LEAST_ITEMS and settings.engine == "scan":
        raise SnapshotError(
            f"the engine scan needs {LEAST_ITEMS} items to train its codes on, there are {items}; "
            "let the engine be chosen: recserve index build --engine auto"
        )
    return items >= LEAST_ITEMS


def codes_of(dim: int, settings: Settings) -> list[int]:
    """Numbers of codes of `scan` to try, rising."""
    return sorted({max(1, dim // wanted) for wanted in settings.dims_per_code})


def lists_of(items: int, items_per_list: int) -> int:
    """Inverted lists of about this length, a power of two."""
    return 1 << max(0, round(math.log2(items / items_per_list)))


def fit_scan(vectors: Vectors, inputs: Vectors, codes: int, settings: Settings) -> Fit:
    """The fit of so many codes to users; for `inputs` see `measure_all`."""
    from recserve_server_ext.index.engines.scan_fit import Fit

    to_fit = users_to_fit(inputs, seed=settings.seed)
    return Fit.to(to_fit, vectors, rank=min(2 * codes, vectors.shape[1]), seed=settings.seed)


def build_scan(vectors: Vectors, fit: Fit, codes: int, lists: int, settings: Settings, stage: Stage) -> ScanEngine:
    """Codes with the widest search."""
    from recserve_server_ext.index.engines.scan import ScanEngine

    with stage(f"build {codes} codes, {lists} lists", len(vectors)) as advance:
        return ScanEngine.build(
            vectors,
            fit,
            lists=lists,
            codes=codes,
            nprobe=lists,
            rescored=max(settings.rescored),
            threads=settings.threads,
            done=advance,
        )


def probes_of(lists: int) -> list[int]:
    """Numbers of lists to probe: all of them, three quarters, half, three eighths and so on."""
    halves = [lists >> step for step in range(lists.bit_length())]
    return sorted({*halves, *(half * 3 // 4 for half in halves if half >= 4)}, reverse=True)


def report_of(
    users: Users, vectors: Vectors, settings: Settings, choice: Choice, points: list[CurvePoint]
) -> RecallReport:
    """What was measured, on this machine."""
    return RecallReport(
        cpu=cpu.model_name(),
        cpu_flags=sorted(cpu.flags() & {"avx2", "avx512f", "avx512_vnni", "avx_vnni"}),
        threads=settings.threads or cpu.usable_cores(),
        items=len(vectors),
        dim=vectors.shape[1],
        k=users.k,
        users=len(next(iter(users.vectors.values()))),
        users_from=users.origin,
        seed=settings.seed,
        engine=settings.engine,
        thorough=settings.thorough,
        target=settings.recall,
        choice=choice,
        points=points,
    )
