"""Recall and cost of a search for user vectors, and the choice among what was measured.

Means of behaviours lie off the data, where a graph finds less than it does for items. So recall is measured for users
of two kinds (docs/decisions/003-hnsw-parameters.md).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np

from recserve_server_ext.common.arrays import Floats, Rows, Scores, Vectors
from recserve_server_ext.index.engines.engine import Engine
from recserve_server_ext.index.engines.exact import ExactEngine

K = 10
#: Users of one search when speed is measured: what serving batches under load.
BATCH = 32
#: Origin of users that are made up.
NEIGHBOURS = "means of neighbours"
_BEHAVIOURS = 20
_INTERESTS = 3
_NEIGHBOURS = 50
_ROUNDS = 3
#: Users that codes are fitted to, and what parts their seed from that of users who are measured.
_USERS_TO_FIT = 2000
_APART = 1_000_003
#: Scores this close are equal: float32 products summed in another order differ by less.
TIE = 1e-6
#: One-sided 95% of a normal distribution.
_SIGMAS = 1.645
#: Share of what a target leaves that the mean has to be above it: .985 where .98 is wanted, so that users and items of
#: other days find it, too.
_RESERVE = 0.25


class CurvePoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One measurement: an engine with these parameters.

    Attributes:
        engine: Name of the engine.
        parameters: What it was built with and searches with.
        items: Items that were searched: all, or a sample of them.
        recall: Mean recall@10 by kind of user.
        recall_low: Lower 95% confidence bound of the mean.
        users_per_s: Users searched in a second by all threads, in batches of 32, for ten items each; the best of three.
        cpu_us_per_user: CPU time of the process in microseconds; the best of three.
    """

    engine: str
    parameters: dict[str, int]
    items: int
    recall: dict[str, float]
    recall_low: dict[str, float]
    users_per_s: float
    cpu_us_per_user: float

    @property
    def name(self) -> str:
        """Engine and parameters in words."""
        return " ".join([self.engine, *(f"{name} {value}" for name, value in self.parameters.items())])

    @property
    def index(self) -> str:
        """The index that was searched: engine and the parameters it was built with, in words."""
        built = (f"{name} {value}" for name, value in self.parameters.items() if name in ("M", "lists"))
        return " ".join([self.engine, *built])


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters to use: position of a point in the curve, and whether it reaches the target or comes nearest."""

    point: int
    reached: bool


@dataclass(frozen=True, eq=False)
class Users:
    """User vectors to measure with, and what an exact search finds for them.

    Attributes:
        vectors: [users, dim] unit float32, by kind.
        last: [users] score of the last item of the exact answer, by kind.
        k: Items searched for: 10, or all where there are fewer.
        items: Items that are searched.
        origin: Where the users come from, in words.
    """

    vectors: dict[str, Vectors]
    last: dict[str, Scores]
    k: int
    items: int
    origin: str


def sample_histories(vectors: Vectors, *, count: int, seed: int) -> dict[str, Rows]:
    """Histories of 20 items, rows of `vectors` [count, 20], by kind; see `sample_users`."""
    random, items = np.random.default_rng(seed), len(vectors)
    chosen = vectors[random.integers(items, size=count * _INTERESTS)]
    near, _ = ExactEngine(vectors).search(chosen, min(_NEIGHBOURS, items))
    # A random order of each row's neighbours; the first few of it are a sample without repetition.
    shuffled = random.permuted(near, axis=1).reshape(count, _INTERESTS, -1)
    taken = [len(part) for part in np.array_split(np.arange(_BEHAVIOURS), _INTERESTS)]
    interests = np.concatenate([shuffled[:, i, :take] for i, take in enumerate(taken)], axis=1)
    return {"interests": interests, "random": random.integers(items, size=(count, _BEHAVIOURS))}


def sample_users(vectors: Vectors, *, count: int, seed: int, inputs: Vectors | None = None) -> Users:
    """User vectors, each the normalised mean of 20 items, `count` of each of two kinds.

    `interests`: three random items, 6-7 of the 50 nearest of each. `random`: 20 random items. The items' vectors are
    [items, dim] float32, at least one. A user is a mean of `inputs`, where items have other vectors as behaviours.
    """
    histories = sample_histories(vectors, count=count, seed=seed)
    of = vectors if inputs is None else inputs
    users = {kind: normalised_means(of[rows]) for kind, rows in histories.items()}
    return _with_exact_answers(vectors, users, NEIGHBOURS)


def users_to_fit(vectors: Vectors, *, seed: int) -> Vectors:
    """Users of the kind `random` to fit the codes of `scan` to, [users, dim]; none of them is measured with.

    That kind is the hardest to search for. What is fitted to it serves the others as well as what is fitted to both
    (docs/decisions/005-scan-engine.md). `seed` is that of the users who are measured.
    """
    random = np.random.default_rng(seed + _APART)
    return normalised_means(vectors[random.integers(len(vectors), size=(_USERS_TO_FIT, _BEHAVIOURS))])


def users_of_log(vectors: Vectors, logged: Vectors) -> Users:
    """Users of one kind, `logged`, by their vectors [users, dim]; see `recserve_export.index.logged_users`."""
    return _with_exact_answers(vectors, {"logged": logged}, f"logged histories ({len(logged):,} users)")


def _with_exact_answers(vectors: Vectors, users: dict[str, Vectors], origin: str) -> Users:
    """Users with what an exact search finds for them."""
    exact, k = ExactEngine(vectors), min(K, len(vectors))
    last = {kind: exact.search(queries, k)[1][:, -1] for kind, queries in users.items()}
    return Users(users, last, k, len(vectors), origin)


class Recalls(NamedTuple):
    """Recall@10 by kind of user.

    Attributes:
        mean: Mean over the users.
        low: Lower 95% confidence bound of the mean.
    """

    mean: dict[str, float]
    low: dict[str, float]


def recalls(engine: Engine, users: Users) -> Recalls:
    """Recall of an engine with the parameters it has, for users of the same vectors."""
    mean, low = {}, {}
    for kind, queries in users.vectors.items():
        found = recall_of(engine.search(queries, users.k)[1], users.last[kind])
        mean[kind] = float(found.mean())
        low[kind] = mean[kind] - _SIGMAS * float(found.std()) / math.sqrt(len(found))
    return Recalls(mean, low)


def measure(engine: Engine, users: Users, timed: int | None = None) -> CurvePoint:
    """Recall and cost of an engine with the parameters it has, for users of the same vectors.

    `timed` is the number of users of each kind that are timed; `None` times all.
    """
    found = recalls(engine, users)
    queries = np.concatenate([of[:timed] for of in users.vectors.values()])
    wall_s, cpu_s = _best_times(engine, queries)
    return CurvePoint(
        engine=engine.name,
        parameters=dict(engine.parameters),
        items=users.items,
        recall=found.mean,
        recall_low=found.low,
        users_per_s=len(queries) / wall_s,
        cpu_us_per_user=cpu_s / len(queries) * 1e6,
    )


def recall_of(scores: Scores, last: Scores) -> Floats:
    """Recall of each user, [users]: the share of the found scores that reach the last of the exact answer, or tie.

    Args:
        scores: [users, k] scores of what was found.
        last: [users] score of the last item of the exact answer.
    """
    return np.asarray((scores >= last[:, None] - TIE).mean(axis=1))


def reaches(point: CurvePoint | Recalls, target: float) -> bool:
    """Whether the recall of every kind of user is at least the target: its lower bound, and its mean with a reserve."""
    mean, low = (point.mean, point.low) if isinstance(point, Recalls) else (point.recall, point.recall_low)
    return min(low.values()) >= target and min(mean.values()) >= target + _RESERVE * (1 - target)


def choose(points: Sequence[CurvePoint], target: float) -> Choice:
    """The cheapest point (CPU time a user) that reaches the target; if there is none, the one with most recall.

    The recall of a point is that of its worse kind of user.
    """
    good = [at for at, point in enumerate(points) if reaches(point, target)]
    if good:
        return Choice(min(good, key=lambda at: points[at].cpu_us_per_user), True)
    worse = [(min(point.recall.values()), -point.cpu_us_per_user) for point in points]
    return Choice(worse.index(max(worse)), False)


def _best_times(engine: Engine, queries: Vectors) -> tuple[float, float]:
    """Wall and CPU seconds of searching all queries, each the least of a few rounds: others use the CPU too."""
    walls, cpus = [], []
    for _ in range(_ROUNDS):
        wall, cpu = time.perf_counter(), time.process_time()
        for start in range(0, len(queries), BATCH):
            engine.search(queries[start : start + BATCH], K)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return max(min(walls), 1e-9), max(min(cpus), 1e-9)


def normalised_means(behaviours: Vectors) -> Vectors:
    """The user vectors [users, dim] of equally weighted behaviours [users, behaviours, dim]."""
    means = behaviours.mean(axis=1)
    unit: Vectors = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    return unit
