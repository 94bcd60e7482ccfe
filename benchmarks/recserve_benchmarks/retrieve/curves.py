"""Curves of recall@10 against users/s: every engine, both kinds of users, batches of 1, 8 and 32, interleaved."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np

from recserve_benchmarks.retrieve.candidates import WANTED, Candidate
from recserve_export.index.recall import sample_users
from recserve_server_ext.common.arrays import Vectors

Done = Callable[[str, int, int], None]
BATCHES = (1, 8, 32)
KINDS = ("interests", "random")
#: Users of a measurement by batch: enough for a clock, not so many that a batch of one takes minutes.
_USERS = {1: 100, 8: 200, 32: 500}
_COMPARED = 32


class Curves:
    """What the candidates take, round by round."""

    def __init__(self, candidates: Sequence[Candidate], recall: float) -> None:
        """Nothing is measured yet.

        Args:
            candidates: See `recserve_benchmarks.retrieve.candidates.build_candidates`.
            recall: That engines are compared at.
        """
        self._candidates = list(candidates)
        self._recall = recall
        # Seconds a user of every round: wall clock, and CPU of the process.
        self._wall_s: dict[tuple[int, str, int], list[float]] = {}
        self._cpu_s: dict[tuple[int, str, int], list[float]] = {}

    def measure(self, vectors: Vectors, rounds: int, seed: int, done: Done) -> None:
        """Measure every candidate in each of the rounds, one after the other.

        Args:
            vectors: [items, dim] that the engines search.
            rounds: How many.
            seed: Of the users, and of the order of the candidates, which differs from round to round.
            done: Says how far it is.
        """
        users = sample_users(vectors, count=max(_USERS.values()), seed=seed + 2).vectors
        random = np.random.default_rng(seed)
        total = rounds * len(self._candidates)
        for number in range(rounds):
            for place, at in enumerate(random.permutation(len(self._candidates)).tolist()):
                done("curves", number * len(self._candidates) + place, total)
                for kind in KINDS:
                    for batch in BATCHES:
                        self._time(at, kind, batch, users[kind][: _USERS[batch]])
        done("curves", total, total)

    def engines(self) -> dict[str, Any]:
        """The curves.

        Returns:
            engine -> kind -> list of {parameters, recall_at_10, users_per_s: {batch: ...}, cpu_us_per_user (batches of
            32), is_chosen (by auto for both kinds), chosen_for, least_ef_for}.
        """
        names = dict.fromkeys(candidate.engine.name for candidate in self._candidates)
        curves: dict[str, Any] = {name: {kind: [] for kind in KINDS} for name in names}
        for at, candidate in enumerate(self._candidates):
            for kind in KINDS:
                curves[candidate.engine.name][kind].append(
                    {
                        "parameters": candidate.parameters,
                        "recall_at_10": candidate.recall[kind],
                        "users_per_s": {str(batch): 1 / median(self._wall_s[at, kind, batch]) for batch in BATCHES},
                        "cpu_us_per_user": median(self._cpu_s[at, kind, _COMPARED]) * 1e6,
                        "is_chosen": "both" in candidate.chosen_for,
                        "chosen_for": list(candidate.chosen_for),
                        "least_ef_for": list(candidate.least_ef_for),
                    }
                )
        return curves

    def user_vectors(self) -> dict[str, Any]:
        """What auto chose against hnswlib's best setting, in batches of 32.

        Returns:
            `best_to_hnsw`, that of `interests`, and a comparison for each name of `WANTED`; see `_comparison`.
        """
        compared = {name: self._comparison(name) for name in WANTED}
        return {"best_to_hnsw": compared["interests"]["best_to_hnsw"], "recall": self._recall, **compared}

    def _comparison(self, name: str) -> dict[str, Any]:
        """One comparison, where these users are wanted and searched for (of several kinds, as many of each).

        Returns:
            best_to_hnsw: users/s of what auto chose over that of hnswlib's fastest setting, the median over the rounds
            of the ratio within each; 0 where one of them misses the recall. cpu_hnsw_to_best: the same by CPU time.
            rounds: those ratios. chosen, hnsw: what was compared; hnsw is null where no graph reaches the recall.
        """
        chosen = next(at for at, one in enumerate(self._candidates) if name in one.chosen_for)
        graphs = [at for at, one in enumerate(self._candidates) if name in one.least_ef_for]
        found: dict[str, Any] = {"best_to_hnsw": 0.0, "cpu_hnsw_to_best": 0.0, "rounds": []}
        found |= {"chosen": self._setting(chosen, name), "hnsw": None}
        if graphs:
            best = min(graphs, key=lambda at: median(self._per_user(self._wall_s, at, name)))
            found["hnsw"] = self._setting(best, name)
            found["rounds"] = self._ratios(self._wall_s, best, chosen, name)
            if min(found["chosen"]["recall_at_10"].values()) >= self._recall:
                found["best_to_hnsw"] = median(found["rounds"])
                found["cpu_hnsw_to_best"] = median(self._ratios(self._cpu_s, best, chosen, name))
        return found

    def _setting(self, at: int, name: str) -> dict[str, Any]:
        candidate = self._candidates[at]
        return {
            "engine": candidate.engine.name,
            "parameters": candidate.parameters,
            "recall_at_10": {kind: candidate.recall[kind] for kind in WANTED[name]},
            "users_per_s": 1 / median(self._per_user(self._wall_s, at, name)),
            "cpu_us_per_user": median(self._per_user(self._cpu_s, at, name)) * 1e6,
        }

    def _ratios(self, seconds: dict[tuple[int, str, int], list[float]], of: int, to: int, name: str) -> list[float]:
        """Seconds of one candidate over those of another, for each round."""
        pairs = zip(self._per_user(seconds, of, name), self._per_user(seconds, to, name), strict=True)
        return [dear / cheap for dear, cheap in pairs]

    def _per_user(self, seconds: dict[tuple[int, str, int], list[float]], at: int, name: str) -> list[float]:
        """Seconds a user in batches of 32 for each round, the mean over the kinds that are wanted."""
        kinds = [seconds[at, kind, _COMPARED] for kind in WANTED[name]]
        return [sum(of_round) / len(kinds) for of_round in zip(*kinds, strict=True)]

    def _time(self, at: int, kind: str, batch: int, queries: Vectors) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        for first in range(0, len(queries), batch):
            self._candidates[at].search(queries[first : first + batch])
        took = time.perf_counter() - wall, time.process_time() - cpu
        for seconds, value in zip((self._wall_s, self._cpu_s), took, strict=True):
            seconds.setdefault((at, kind, batch), []).append(value / len(queries))
