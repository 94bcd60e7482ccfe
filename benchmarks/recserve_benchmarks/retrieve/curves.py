"""Recall and speed of the engines on user vectors: their curves, and their cost at equal recall."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Final, NamedTuple

import numpy as np

from recserve_benchmarks.harness.corpus import item_ids
from recserve_benchmarks.harness.recall import K
from recserve_benchmarks.harness.run import Run
from recserve_benchmarks.retrieve.peers import PEERS, PeerGraph
from recserve_export.index.engine_choice import Settings, ef_curve, measure_all
from recserve_export.index.milvus import in_milvus
from recserve_export.index.recall import CurvePoint, Users, choose, recall_of, sample_users
from recserve_server_ext.common.arrays import Floats, Vectors
from recserve_server_ext.config.milvus import MilvusSettings
from recserve_server_ext.index.engines.engine import Engine
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.engines.hnsw import HnswEngine
from recserve_server_ext.index.engines.milvus.collection import Loadable
from recserve_server_ext.index.engines.milvus.engine import MilvusEngine

#: Recall@10 of the worse kind of users at which engines are compared.
RECALL: Final = 0.985
ENGINES: Final = ("hnsw", "scan", "exact", "milvus", *(peer.name for peer in PEERS))
#: M of the graphs that are built.
GRAPHS: Final = (16, 32)
#: No graphs are built over more items: one of a million takes more than 20 minutes.
MOST_GRAPH_ITEMS: Final = 200_000
#: Users of a measurement by batch size: enough for a clock, not so many that a batch of one takes minutes.
BATCHES: Final = {1: 100, 8: 200, 32: 640}
#: Place of the batch size of CPU times and comparisons: what serving batches under load.
_COMPARED: Final = 2


class Candidate(NamedTuple):
    """An engine at a point of its curve; points of one graph share it and name the width with every search."""

    engine: Engine
    point: CurvePoint

    def search(self, queries: Vectors) -> Vectors:
        """Scores of the ten best items of each query."""
        return self.engine.search(queries, K, ef=self.point.parameters.get("ef"))[1]


class Built(NamedTuple):
    """The engines over some items, and the one that `recserve index build` would choose of those in this process."""

    candidates: list[Candidate]
    chosen: Candidate


def build(vectors: Vectors, users: int, milvus: str, run: Run, stack: ExitStack) -> Built:
    """Build every engine and measure the points of its curve as `recserve index build` does.

    Args:
        vectors: [items, dim] unit float32, enough for `scan`.
        users: Users of each kind to measure recall with.
        milvus: Where Milvus is; empty leaves it out.
        run: Of the benchmark.
        stack: Removes the collection of Milvus at the end.

    Raises:
        ServerError: Milvus is away or refused.
    """
    settings = Settings(engine="scan", recall=RECALL, users=users, seed=run.seed, m=GRAPHS)
    measured_with = sample_users(vectors, count=users, seed=run.seed)
    scan, report = measure_all(vectors, settings, stage=run.stage)
    of_scan = [point for point in report.points if _index_of(point) == _index_of(report.points[report.choice.point])]
    found = [Candidate(scan.with_parameters(point.parameters), point) for point in of_scan]
    found.append(Candidate(ExactEngine(vectors), report.points[-1]))
    if len(vectors) <= MOST_GRAPH_ITEMS:
        for m in GRAPHS:
            found += _graph(vectors, m, measured_with, settings, run)
    chosen = found[choose([candidate.point for candidate in found], RECALL).point]
    if len(vectors) <= MOST_GRAPH_ITEMS:
        for m in GRAPHS:
            for peer in PEERS:
                found += _peer(peer, vectors, m, measured_with, settings, run)
    if milvus:
        found += _in_milvus(vectors, measured_with, settings, milvus, run, stack)
    return Built(found, chosen)


def _index_of(point: CurvePoint) -> tuple[str, int | None, int | None]:
    return point.engine, point.parameters.get("lists"), point.parameters.get("codes")


def _graph(vectors: Vectors, m: int, users: Users, settings: Settings, run: Run) -> list[Candidate]:
    with run.stage(f"build graph, M {m}", len(vectors)) as advance:
        graph = HnswEngine.build(
            vectors, m=m, ef_construction=settings.ef_construction, ef=settings.ef[0], seed=run.seed, done=advance
        )
    points = ef_curve(graph, users, settings, run.stage).points
    # Anew, since what measured the points has changed the width of the graph that it shares.
    graph = graph.with_parameters({"ef": settings.ef[0]})
    return [Candidate(graph, point) for point in points]


def _peer(
    peer: type[PeerGraph], vectors: Vectors, m: int, users: Users, settings: Settings, run: Run
) -> list[Candidate]:
    run.show(f"build {peer.name}, M {m}", 0, 1)
    graph = peer(vectors, m, settings)
    return [Candidate(graph, point) for point in ef_curve(graph, users, settings, run.stage).points]


def _in_milvus(
    vectors: Vectors, users: Users, settings: Settings, uri: str, run: Run, stack: ExitStack
) -> list[Candidate]:
    loadable = Loadable.of_items(vectors, item_ids(len(vectors)), None, "bench")
    curve = in_milvus(loadable, settings, MilvusSettings(uri=uri), run.stage)(users)
    assert isinstance(curve.engine, MilvusEngine)
    stack.callback(curve.engine.discard)
    return [Candidate(curve.engine, point) for point in curve.points]


def measure(built: Built, vectors: Vectors, users: int, run: Run) -> dict[str, Any]:
    """Time every candidate in interleaved rounds, each round in another random order.

    Args:
        built: The candidates.
        vectors: [items, dim] that they search.
        users: Users of each kind to measure recall with; half of the users that are timed are of each kind.
        run: Of the benchmark.

    Returns:
        `engines`: by engine, its points with parameters, recall@10 by kind, users/s by batch, and CPU time a user in
        batches of 32. `at_recall`: by engine that reaches it, users/s and CPU time at equal recall, medians over the
        rounds. `to_hnsw`: how many times as fast as hnswlib the chosen engine is at equal recall in each round, by
        `users_per_s` and by `cpu`; empty where no graph reaches it.
    """
    # Users apart from those that the parameters were chosen with.
    reported = sample_users(vectors, count=users, seed=run.seed + 1)
    recalls = [_recall(candidate, reported) for candidate in built.candidates]
    seconds = _seconds(built.candidates, vectors, run)
    engines: dict[str, list[dict[str, Any]]] = {}
    costs: dict[str, Floats] = {}
    for name in ENGINES:
        mine = [at for at, candidate in enumerate(built.candidates) if candidate.engine.name == name]
        engines[name] = [_described(built, at, recalls[at], seconds[at]) for at in mine]
        reached = cost_at([min(recalls[at].values()) for at in mine], seconds[mine, :, _COMPARED]) if mine else None
        if reached is not None:
            costs[name] = reached
    medians = {name: np.median(of, axis=0).tolist() for name, of in costs.items()}
    at_recall = {
        name: {"users_per_s": 1 / wall_s, "cpu_us_per_user": cpu_s * 1e6} for name, (wall_s, cpu_s) in medians.items()
    }
    chosen = built.chosen.engine.name
    ratios = costs["hnsw"] / costs[chosen] if {"hnsw", chosen} <= set(costs) else np.empty((0, 2))
    to_hnsw = {"users_per_s": ratios[:, 0].tolist(), "cpu": ratios[:, 1].tolist()}
    return {"engines": engines, "at_recall": at_recall, "to_hnsw": to_hnsw}


def _described(built: Built, at: int, recall: dict[str, float], seconds: Floats) -> dict[str, Any]:
    """A point of a curve; seconds are [rounds, batches, 2]."""
    of = np.median(seconds, axis=0)
    return {
        "parameters": built.candidates[at].point.parameters,
        "is_chosen": built.candidates[at] is built.chosen,
        "recall_at_10": recall,
        "users_per_s": {str(batch): 1 / wall_s for batch, wall_s in zip(BATCHES, of[:, 0].tolist(), strict=True)},
        "cpu_us_per_user": float(of[_COMPARED, 1]) * 1e6,
    }


def _recall(candidate: Candidate, users: Users) -> dict[str, float]:
    """Mean recall@10 for each kind of user."""
    return {
        kind: float(recall_of(candidate.search(queries), users.last[kind]).mean())
        for kind, queries in users.vectors.items()
    }


def _seconds(candidates: Sequence[Candidate], vectors: Vectors, run: Run) -> Floats:
    """Wall clock and CPU time of this process for each user, [candidates, rounds, batches, 2]."""
    kinds = sample_users(vectors, count=max(BATCHES.values()) // 2, seed=run.seed + 2).vectors
    queries = np.stack(list(kinds.values()), axis=1).reshape(-1, vectors.shape[1])
    random = np.random.default_rng(run.seed)
    found = np.empty((len(candidates), run.rounds, len(BATCHES), 2))
    order = [(at, number) for number in range(run.rounds) for at in random.permutation(len(candidates)).tolist()]
    for at, number in run.each("curves", order):
        for place, (batch, count) in enumerate(BATCHES.items()):
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            for first in range(0, count, batch):
                candidates[at].search(queries[first : min(first + batch, count)])
            took = time.perf_counter() - wall_s, time.process_time() - cpu_s
            found[at, number, place] = np.array(took) / count
    return found


def cost_at(recalls: Sequence[float], costs: Floats, recall: float = RECALL) -> Floats | None:
    """Costs at just this recall, between two points of a curve.

    The curve goes through the points that no cheaper one equals in recall. Where the cheapest point finds more, its
    cost counts.

    Args:
        recalls: [points] recall.
        costs: [points, ...] costs of each; every one has a curve of its own.
        recall: Wanted.

    Returns:
        [...] costs, or `None` where no point reaches the recall.
    """
    if max(recalls) < recall:
        return None

    def at(of: Floats) -> float:
        front: list[tuple[float, float]] = []
        for cost, found in sorted(zip(of.tolist(), recalls, strict=True), key=lambda point: (point[0], -point[1])):
            if not front or found > front[-1][0]:
                front.append((found, cost))
        return float(np.interp(recall, *np.array(front).T))

    return np.asarray(np.apply_along_axis(at, 0, costs), np.float64)
