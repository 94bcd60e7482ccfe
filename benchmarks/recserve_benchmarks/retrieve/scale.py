"""Growth: every engine at 10,000, 100,000 and a million items, and the start from a snapshot at each."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from recserve_benchmarks.retrieve.corpus import some_of
from recserve_benchmarks.retrieve.start import start
from recserve_export.index.engine_choice import Settings, build_engine, ef_curve
from recserve_export.index.recall import CurvePoint, choose, reaches, sample_users
from recserve_export.stages import Stage
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.index.engines.engine import Engine
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.engines.hnsw import HnswEngine
from recserve_server_ext.index.snapshot import Content, write
from recserve_server_ext.index.space import TEXT, SpaceContent

Done = Callable[[str, int, int], None]
SIZES = (10_000, 100_000, 1_000_000)
_M = 32


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How growth is measured.

    Attributes:
        recall: Recall@10 to choose for, and at which CPU time is compared.
        users: User vectors of each kind.
        graph_budget_s: A graph that would take longer to build is left out.
        seed: Of items, users and graphs.
    """

    recall: float
    users: int
    graph_budget_s: float
    seed: int


def sizes_up_to(items: int) -> list[int]:
    """The sizes to measure: those of `SIZES` below, and so many items."""
    return [*(size for size in SIZES if size < items), items]


def measure(vectors: Vectors, real: int, growth: Growth, done: Done) -> dict[str, Any]:
    """Every engine at growing sizes.

    Args:
        vectors: [items, dim] unit float32, the real ones first; smaller sizes are the first of them.
        real: How many are real.
        growth: How.
        done: Says how far it is.

    Returns:
        `points`: one for each size, see docs/results/retrieval.md; `cpu_growth`: by engine, how many times the CPU time
        of a user grows from each size to the next at equal recall.
    """
    points: list[dict[str, Any]] = []
    sizes = sizes_up_to(len(vectors))
    graph_s: dict[int, float] = {}
    for size in sizes:
        items = vectors[:size] if size >= real else some_of(vectors[:real], size, growth.seed)
        points.append(_at(items, max(0, size - real), growth, graph_s, done))
    return {
        "points": points,
        "recall": growth.recall,
        "graph_budget_s": growth.graph_budget_s,
        "cpu_growth": _growth(points),
    }


def _at(items: Vectors, synthetic: int, growth: Growth, graph_s: dict[int, float], done: Done) -> dict[str, Any]:
    """One size; `graph_s` are the seconds that graphs took to build, by number of items."""
    stage = _stages(f"{len(items):,} items: ", done)
    began = time.perf_counter()
    settings = Settings(engine="scan", recall=growth.recall, users=growth.users, seed=growth.seed)
    engine, report = build_engine(items, settings, stage=stage)
    choose_s = time.perf_counter() - began
    points = list(report.points)
    engines: dict[str, Engine] = {"scan": engine, "exact": ExactEngine(items)}
    predicted_s = predict(graph_s, len(items))
    if predicted_s <= growth.graph_budget_s:
        graph, graph_s[len(items)] = _graph(items, growth, stage)
        engines["hnsw"] = graph
        users = sample_users(items, count=growth.users, seed=growth.seed)
        points += ef_curve(graph, users, settings, stage).points
    best = points[choose(points, growth.recall).point]
    own = {name: [point for point in points if point.engine == name] for name in ("hnsw", "scan", "exact")}
    built_s = {"hnsw": graph_s.get(len(items)), "scan": choose_s, "exact": 0.0}
    left_out: dict[str, Any] = {} if own["hnsw"] else {"hnsw": {"predicted_build_s": predicted_s}}
    found: dict[str, Any] = {
        "items": len(items),
        "synthetic": synthetic,
        "chosen": best.engine,
        "engines": {name: _figures(of, growth.recall, built_s[name]) for name, of in own.items() if of},
        "left_out": left_out,
        "choose_scan_s": choose_s,
    }
    return {**found, **_served(items, engines[best.engine].with_parameters(best.parameters), growth, stage)}


def predict(graph_s: dict[int, float], items: int) -> float:
    """Seconds that a graph of so many items will take, from the largest that was built; 0 before the first.

    Building grows as n log n: every item is a search, whose steps grow with the logarithm of the items.
    """
    if not graph_s:
        return 0.0
    size = max(graph_s)
    return graph_s[size] * items * math.log(items) / (size * math.log(size))


def _graph(items: Vectors, growth: Growth, stage: Stage) -> tuple[HnswEngine, float]:
    began = time.perf_counter()
    with stage(f"build graph, M {_M}", len(items)) as advance:
        graph = HnswEngine.build(items, m=_M, ef_construction=200, ef=64, seed=growth.seed, done=advance)
    return graph, time.perf_counter() - began


def _figures(points: Sequence[CurvePoint], recall: float, build_s: float | None) -> dict[str, Any]:
    """What an engine would be served with, and its CPU time at just this recall."""
    best = points[choose(points, recall).point]
    return {
        "parameters": best.parameters,
        "recall_at_10": best.recall,
        "reached": reaches(best, recall),
        "users_per_s": best.users_per_s,
        "cpu_us_per_user": best.cpu_us_per_user,
        "cpu_us_at_recall": cpu_at(points, recall),
        "build_s": build_s,
    }


def cpu_at(points: Sequence[CurvePoint], recall: float) -> float | None:
    """CPU time a user (us) at just this mean recall of the worse kind of users, between two points of the curve.

    The curve goes through the points that no cheaper one equals in recall. An engine whose cheapest point finds more
    has that point's time; none where the recall is not reached.
    """
    front: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda point: (point.cpu_us_per_user, -min(point.recall.values()))):
        found = min(point.recall.values())
        if not front or found > front[-1][0]:
            front.append((found, point.cpu_us_per_user))
    recalls, costs = np.array(front).T
    return float(np.interp(recall, recalls, costs)) if recall <= recalls[-1] else None


def _growth(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """From each size to the next."""
    steps = []
    for before, after in pairwise(points):
        step: dict[str, Any] = {"from": before["items"], "to": after["items"]}
        for name in ("hnsw", "scan", "exact"):
            costs = [point["engines"].get(name, {}).get("cpu_us_at_recall") for point in (before, after)]
            step[name] = costs[1] / costs[0] if all(costs) else None
        steps.append(step)
    return steps


def _served(items: Vectors, engine: Engine, growth: Growth, stage: Stage) -> dict[str, Any]:
    """Writing a snapshot, starting from it with and without its files in the system's cache, and memory then."""
    users = sample_users(items, count=growth.users, seed=growth.seed + 1).vectors["interests"]
    ids = [f"t{row}" for row in range(len(items))]
    spaces = {TEXT: SpaceContent(vectors=items, engine=engine)}
    content = Content(spaces=spaces, ids=ids, encoder="bench", revision=1)
    with tempfile.TemporaryDirectory(prefix="recserve-scale-") as folder, stage("write and start", 3) as advance:
        queries = Path(folder) / "queries.npy"
        np.save(queries, users)
        began = time.perf_counter()
        path = write(Path(folder) / "snapshots", content)
        write_s = time.perf_counter() - began
        advance(1)
        cold = start(path, queries, cold=True)
        advance(1)
        warm = start(path, queries, cold=False)
        advance(1)
        disk_mb = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 2**20
    return {
        "write_s": write_s,
        "start_s": warm.start_s,
        "cold_start_s": cold.start_s,
        "anonymous_mb": warm.anonymous_mb,
        "mapped_mb": warm.mapped_mb,
        "disk_mb": disk_mb,
    }


def _stages(what: str, done: Done) -> Stage:
    """The progress of building as this benchmark shows it."""

    @contextmanager
    def stage(name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        counted, total = 0, total or 0
        done(what + name, 0, total)

        def advance(count: int) -> None:
            nonlocal counted
            counted += count
            done(what + name, counted, total)

        yield advance

    return stage
