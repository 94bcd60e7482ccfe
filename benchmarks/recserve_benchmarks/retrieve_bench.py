"""`recserve bench retrieve`: every engine on user vectors, our retrieval over it, swaps under load, and growth."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from recserve_benchmarks import retrieve_curves, retrieve_filtered, retrieve_swap, retrieve_views
from recserve_benchmarks.corpus import Corpus
from recserve_benchmarks.retrieve_corpus import Vectors, items_of
from recserve_benchmarks.retrieve_curves import Candidate
from recserve_export.engine_choice import Settings, build_engine
from recserve_export.recall import sample_users
from recserve_server_ext.engine import BuiltEngine
from recserve_server_ext.scan_engine import ScanEngine
from recserve_server_ext.snapshot import Content, Snapshot, write
from recserve_server_ext.text_encoder import TextEncoder

Done = Callable[[str, int, int], None]
#: Recall@10 of `interests` at which engines are compared.
RECALL = 0.985
_SCALES = (10_000, 100_000, 1_000_000)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much to measure.

    Attributes:
        items: Of the curves; also the largest size that growth is measured at.
        rounds: Rounds; medians are over them.
        users: User vectors of each kind to measure recall with.
        swap: Whether to measure a swap under load.
        seed: Of everything drawn.
    """

    items: int = 65_000
    rounds: int = 5
    users: int = 500
    swap: bool = True
    seed: int = 0


class RetrieveBench:
    """Measures retrieval over one corpus."""

    def __init__(self, corpus: Corpus, encoder: TextEncoder, plan: Plan, done: Done) -> None:
        self._corpus = corpus
        self._encoder = encoder
        self._plan = plan
        self._done = done

    def run(self) -> dict[str, Any]:
        """Measure all of it.

        Returns:
            Figures by name; see docs/retrieval-speed.md.

        Raises:
            BenchmarkError: Requests failed, or a process ended.
            ServerError: A server did not start.
        """
        plan = self._plan
        real = self._corpus.snapshot.vectors
        items = items_of(real, min(plan.items, len(real)), plan.seed)
        candidates = retrieve_curves.build_candidates(items.vectors, RECALL, plan.users, plan.seed, self._done)
        curves = retrieve_curves.measure(candidates, items.vectors, plan.rounds, plan.seed, self._done)
        chosen = _chosen(candidates)
        results: dict[str, Any] = {
            "engines": curves,
            "user_vectors": retrieve_curves.best_to_hnsw(curves, RECALL),
            "filtered": retrieve_filtered.measure(items.vectors, chosen, plan.rounds, plan.seed),
            "ratio_to_raw": retrieve_views.measure(items.vectors, chosen, plan.rounds, plan.seed),
        }
        if plan.swap:
            results["swap_under_load"] = self._swap(items.vectors, chosen)
        results["scale"] = self._scale(real)
        return results

    def _swap(self, vectors: Vectors, engine: BuiltEngine) -> dict[str, Any]:
        served = retrieve_swap.Served(
            vectors=vectors,
            engine=engine,
            encoders=self._corpus.encoder_folder.parent,
            precision=self._encoder.manifest.precision,
            fingerprint=self._encoder.fingerprint,
        )
        return retrieve_swap.measure(served, self._plan.seed, self._done)

    def _scale(self, real: Vectors) -> dict[str, Any]:
        """Speed, build time, memory and start time at growing sizes, each with what auto chooses there."""
        sizes = [size for size in _SCALES if size <= self._plan.items] or [self._plan.items]
        points = []
        for number, size in enumerate(sizes):
            self._done("scale", number, len(sizes))
            points.append(self._at(real, size))
        self._done("scale", len(sizes), len(sizes))
        first, last = points[0], points[-1]
        return {
            "points": points,
            "cpu_growth": last["cpu_us_per_user"] / first["cpu_us_per_user"],
            "items_growth": last["items"] / first["items"],
        }

    def _at(self, real: Vectors, size: int) -> dict[str, Any]:
        items = items_of(real, size, self._plan.seed)
        start = time.perf_counter()
        engine, report = build_engine(items.vectors, Settings(engine="scan", recall=RECALL, users=self._plan.users))
        choose_s = time.perf_counter() - start
        point = report.points[report.choice.point]
        with tempfile.TemporaryDirectory(prefix="recserve-scale-") as folder:
            content = Content(
                vectors=items.vectors,
                ids=[f"t{row}" for row in range(size)],
                engine=engine,
                encoder="bench",
                revision=1,
            )
            start = time.perf_counter()
            path = write(Path(folder), content)
            write_s = time.perf_counter() - start
            del engine, content
            before = psutil.Process().memory_full_info().uss
            start = time.perf_counter()
            snapshot = Snapshot.load(path)
            start_s = time.perf_counter() - start
            users = sample_users(items.vectors, count=32, seed=1).vectors["interests"]
            snapshot.engine.search(users, 10)
            memory_mb = (psutil.Process().memory_full_info().uss - before) / 2**20
            disk_mb = sum(file.stat().st_size for file in path.iterdir()) / 2**20
        return {
            "items": size,
            "synthetic": items.synthetic,
            "engine": point.engine,
            "parameters": point.parameters,
            "recall_at_10": point.recall,
            "users_per_s": point.users_per_s,
            "cpu_us_per_user": point.cpu_us_per_user,
            "build_s": _build_s(items.vectors, point.parameters),
            "choose_s": choose_s,
            "write_s": write_s,
            "start_s": start_s,
            "memory_mb": memory_mb,
            "disk_mb": disk_mb,
        }


def _build_s(vectors: Vectors, of: dict[str, int]) -> float:
    """Seconds of one build of `scan` with these parameters, as a compaction does it."""
    start = time.perf_counter()
    ScanEngine.build(vectors, lists=of["lists"], codes=of["codes"], nprobe=of["nprobe"], rescored=of["rescored"])
    return time.perf_counter() - start


def _chosen(candidates: list[Candidate]) -> BuiltEngine:
    """The engine that auto chose, searching as it chose."""
    chosen = next(candidate for candidate in candidates if candidate.is_chosen)
    return chosen.engine.with_parameters(chosen.parameters) if chosen.parameters else chosen.engine
