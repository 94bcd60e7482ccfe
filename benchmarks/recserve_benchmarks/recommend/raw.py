"""The same work without a server, in a process of its own: an engine alone, and tokenise + encode + pool + search."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import hnswlib
import numpy as np

from recserve_benchmarks.harness.recall import K
from recserve_benchmarks.harness.servers import CALLERS
from recserve_benchmarks.harness.worker import Worker
from recserve_export.index.recall import normalised_means
from recserve_server_ext.common import cpu
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.encoder.text_encoder import TextEncoder
from recserve_server_ext.index.engines.hnsw import GRAPH
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.index.space import space_folder

#: Without it, idle turns of the threads of BLAS would count as CPU time of the search.
_ONE_BLAS_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class RawJob(NamedTuple):
    """Users to search for.

    Attributes:
        users: [users, dim] user vectors, or histories of texts, all of one length.
        batch: Users of one call; by default as many as there are callers, the most a server could batch.
    """

    users: Vectors | Sequence[Sequence[str]]
    batch: int = CALLERS


class RawCost(NamedTuple):
    """What users cost: CPU time of the process for each user (all threads), and the median of one call."""

    cpu_us: float
    users_per_s: float
    p50_ms: float


def raw_search(home: Workspace, encoder: Path) -> Worker[RawJob, RawCost]:
    """The process of a raw search over the index of a home; the encoder is for histories of texts."""
    return Worker("the raw search", searcher, home, encoder, environment=_ONE_BLAS_THREAD)


def searcher(home: Workspace, encoder_folder: Path) -> Callable[[RawJob], RawCost]:
    """What searches a snapshot as serving does, with as many threads: a graph by plain hnswlib, else its engine."""
    encoder = TextEncoder(encoder_folder)
    folder = current(home.snapshots)
    snapshot = Snapshot.load(folder, encoder=encoder.fingerprint)
    manifest, engine = snapshot.manifest, snapshot.text.engine
    graph = space_folder(folder) / GRAPH
    find: Callable[[Vectors], object] = partial(engine.search, k=K)
    if graph.exists():
        index = hnswlib.Index(space="ip", dim=manifest.text.dim)
        index.load_index(str(graph), max_elements=manifest.items)
        index.set_ef(manifest.text.engine.parameters["ef"])
        index.set_num_threads(cpu.usable_cores())
        find = partial(index.knn_query, k=K)

    def vectors_of(users: Vectors | Sequence[Sequence[str]]) -> Vectors:
        if isinstance(users, np.ndarray):
            return users
        vectors = encoder.encode([text for history in users for text in history], role="query")
        return normalised_means(vectors.reshape(len(users), -1, encoder.dim))

    def search(job: RawJob) -> RawCost:
        count, calls_s = len(job.users), []
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        for start in range(0, count, job.batch):
            call_s = time.perf_counter()
            find(vectors_of(job.users[start : start + job.batch]))
            calls_s.append(time.perf_counter() - call_s)
        cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
        return RawCost(cpu_s / count * 1e6, count / wall_s, float(np.median(calls_s)) * 1000)

    return search
