"""Curves of recall@10 against users/s: every engine, both kinds of users, batches of 1, 8 and 32, interleaved."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recserve_export.engine_choice import EngineName, RecallReport, Settings, build_engine
from recserve_export.recall import CurvePoint, Users, choose, recall_of, sample_users
from recserve_server_ext.engine import BuiltEngine

Vectors = NDArray[np.float32]
Done = Callable[[str, int, int], None]
ENGINES: tuple[EngineName, ...] = ("hnsw", "scan", "exact")
BATCHES = (1, 8, 32)
KINDS = ("interests", "random")
#: Points of a curve beside the chosen one: one kind of user alone may be served well by cheaper ones.
_DEARER, _CHEAPER = 2, 4
#: Users of a measurement by batch: enough for a clock, not so many that a batch of one takes minutes.
_USERS = {1: 100, 8: 200, 32: 500}


@dataclass(frozen=True, eq=False)
class Candidate:
    """An engine with the parameters it is measured with.

    Attributes:
        engine: Ready to search; candidates of one graph share it, and name the width with every search.
        parameters: Built and searched with.
        recall: Recall@10 by kind of user.
        is_chosen: Whether it is what `auto` chose.
    """

    engine: BuiltEngine
    parameters: dict[str, int]
    recall: dict[str, float]
    is_chosen: bool

    def search(self, queries: Vectors) -> Vectors:
        """Scores of the ten best of each query."""
        return self.engine.search(queries, 10, ef=self.parameters.get("ef"))[1]


def build_candidates(vectors: Vectors, recall: float, users: int, seed: int, done: Done) -> list[Candidate]:
    """Build every engine by `recserve index build`'s own choice, and take points of its curve about the chosen one.

    Args:
        vectors: [items, dim] unit float32.
        recall: Recall@10 to choose for.
        users: User vectors of each kind to measure recall with.
        seed: Of the users.
        done: Says how far it is.
    """
    found: list[tuple[BuiltEngine, RecallReport]] = []
    for number, name in enumerate(ENGINES):
        done("build engines", number, len(ENGINES))
        found.append(build_engine(vectors, Settings(engine=name, recall=recall, users=users, seed=seed)))
    done("build engines", len(ENGINES), len(ENGINES))
    everything = [point for _, report in found for point in _own(report)]
    chosen = everything[choose(everything, recall).point]
    sample = sample_users(vectors, count=users, seed=seed + 1)
    candidates = []
    for engine, report in found:
        for point in _points(report):
            # One graph serves one width at a time, so `ef` is named in each search and no second engine is made of it.
            is_graph = not point.parameters or "ef" in point.parameters
            searching = engine if is_graph else engine.with_parameters(point.parameters)
            candidate = Candidate(searching, dict(point.parameters), {}, point is chosen)
            candidates.append(replace(candidate, recall=recall_by_kind(candidate, sample)))
    return candidates


def measure(candidates: Sequence[Candidate], vectors: Vectors, rounds: int, seed: int, done: Done) -> dict[str, Any]:
    """Users/s of every candidate, medians of interleaved rounds.

    Returns:
        engine -> kind -> list of {parameters, recall_at_10, users_per_s: {batch: ...}, is_chosen}.
    """
    users = sample_users(vectors, count=max(_USERS.values()), seed=seed + 2).vectors
    rates: dict[tuple[int, str, int], list[float]] = {}
    for number in range(rounds):
        done("curves", number, rounds)
        for at, candidate in enumerate(candidates):
            for kind in KINDS:
                for batch in BATCHES:
                    queries = users[kind][: _USERS[batch]]
                    rates.setdefault((at, kind, batch), []).append(_rate(candidate, queries, batch))
    done("curves", rounds, rounds)
    names = dict.fromkeys(candidate.engine.name for candidate in candidates)
    curves: dict[str, Any] = {name: {kind: [] for kind in KINDS} for name in names}
    for at, candidate in enumerate(candidates):
        for kind in KINDS:
            curves[candidate.engine.name][kind].append(
                {
                    "parameters": candidate.parameters,
                    "recall_at_10": candidate.recall[kind],
                    "users_per_s": {str(batch): median(rates[at, kind, batch]) for batch in BATCHES},
                    "is_chosen": candidate.is_chosen,
                }
            )
    return curves


def best_to_hnsw(curves: dict[str, Any], recall: float) -> dict[str, Any]:
    """Users/s of what auto chose over hnswlib's fastest setting, both at this recall for `interests`, batches of 32."""
    of = [point for engine in curves.values() for point in engine["interests"] if point["is_chosen"]]
    hnsw = [point for point in curves["hnsw"]["interests"] if point["recall_at_10"] >= recall]
    best = max((point["users_per_s"]["32"] for point in hnsw), default=0.0)
    chosen = of[0]
    return {
        "best_to_hnsw": chosen["users_per_s"]["32"] / best if best and chosen["recall_at_10"] >= recall else 0.0,
        "chosen_recall_at_10": chosen["recall_at_10"],
        "chosen_users_per_s": chosen["users_per_s"]["32"],
        "hnsw_users_per_s": best,
    }


def _own(report: RecallReport) -> list[CurvePoint]:
    """The points of the engine that was asked for."""
    return [point for point in report.points if point.engine == report.engine]


def _points(report: RecallReport) -> list[CurvePoint]:
    """The chosen point, two dearer and four cheaper ones of the same index."""
    own = _own(report)
    chosen = own[choose(own, report.target).point]
    same = [point for point in own if _built(point) == _built(chosen)]
    same.sort(key=lambda point: -point.cpu_us_per_user)
    at = next(place for place, point in enumerate(same) if point is chosen)
    return same[max(0, at - _DEARER) : at + _CHEAPER + 1]


def _built(point: CurvePoint) -> dict[str, int]:
    return {name: value for name, value in point.parameters.items() if name in ("M", "lists")}


def recall_by_kind(candidate: Candidate, users: Users) -> dict[str, float]:
    """Mean recall@10 of a candidate for each kind of user."""
    found = {}
    for kind, queries in users.vectors.items():
        found[kind] = float(recall_of(candidate.search(queries), users.last[kind]).mean())
    return found


def _rate(candidate: Candidate, queries: Vectors, batch: int) -> float:
    start = time.perf_counter()
    for first in range(0, len(queries), batch):
        candidate.search(queries[first : first + batch])
    return len(queries) / (time.perf_counter() - start)
