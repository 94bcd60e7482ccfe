"""The same work without a server, in this process: hnswlib alone, and tokenise + encode + pool + search."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import hnswlib
import numpy as np
from numpy.typing import NDArray

from recserve_server_ext import cpu
from recserve_server_ext.hnsw_engine import GRAPH
from recserve_server_ext.snapshot import Snapshot, current
from recserve_server_ext.text_encoder import TextEncoder
from recserve_server_ext.workspace import Workspace

Vectors = NDArray[np.float32]
K = 10
#: Users of one raw call: as many as there are callers, the most a server could batch.
BATCH = 32


@dataclass(frozen=True)
class RawCost:
    """What users cost.

    Attributes:
        users: Number of them.
        cpu_s: CPU seconds of this process.
        wall_s: Seconds that passed.
    """

    users: int
    cpu_s: float
    wall_s: float


class RawSearch:
    """The index of a snapshot in plain hnswlib, with the snapshot's `ef` and as many threads as serving has."""

    def __init__(self, home: Workspace, snapshot: Snapshot) -> None:
        self._index = hnswlib.Index(space="ip", dim=snapshot.manifest.dim)
        self._index.load_index(str(current(home.snapshots) / GRAPH), max_elements=snapshot.manifest.items)
        self._index.set_ef(snapshot.manifest.engine.parameters["ef"])
        self._index.set_num_threads(cpu.usable_cores())

    def search(self, users: Vectors, batch: int = BATCH) -> RawCost:
        """Search for every user in batches."""
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        for start in range(0, len(users), batch):
            self._index.knn_query(users[start : start + batch], k=K)
        return RawCost(len(users), time.process_time() - cpu_s, time.perf_counter() - wall_s)

    def p50_ms(self, users: Vectors) -> float:
        """Median latency of one user at a time."""
        taken = [self.search(users[row : row + 1]).wall_s for row in range(len(users))]
        return float(np.median(taken) * 1000)

    def search_texts(self, encoder: TextEncoder, histories: Sequence[Sequence[str]]) -> RawCost:
        """Tokenise, encode, pool and search histories of texts of one length, in batches."""
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        for start in range(0, len(histories), BATCH):
            batch = histories[start : start + BATCH]
            vectors = encoder.encode([text for history in batch for text in history])
            users = means(vectors.reshape(len(batch), -1, encoder.dim))
            self._index.knn_query(users, k=K)
        return RawCost(len(histories), time.process_time() - cpu_s, time.perf_counter() - wall_s)


def means(behaviours: Vectors) -> Vectors:
    """Normalised means of [users, behaviours, dim]."""
    sums = behaviours.sum(axis=1)
    return np.asarray(sums / np.linalg.norm(sums, axis=1, keepdims=True), np.float32)
