"""The same work without a server, in a process of its own: hnswlib alone, and tokenise + encode + pool + search.

Run as ``python -m recserve_benchmarks.recommend.raw HOME ENCODER``; see `recserve_benchmarks.harness.worker`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hnswlib
import msgspec
import numpy as np
from numpy.typing import NDArray

from recserve_benchmarks.harness.worker import Worker, work_on_jobs
from recserve_export.index.recall import normalised_means
from recserve_server_ext.common import cpu
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.encoder.text_encoder import TextEncoder
from recserve_server_ext.index.engines.hnsw import GRAPH
from recserve_server_ext.index.snapshot import Snapshot, current
from recserve_server_ext.index.space import space_folder
from recserve_server_ext.triton.process import with_huge_pages

K = 10
#: Users of one raw call: as many as there are callers, the most a server could batch.
BATCH = 32


class RawJob(msgspec.Struct, frozen=True):
    """Users to search for: histories of known rows, or of texts; all of one length.

    Attributes:
        rows: [users, behaviours] rows of the snapshot.
        texts: [users, behaviours] texts.
        batch: Users of one call.
    """

    rows: list[list[int]] = []
    texts: list[list[str]] = []
    batch: int = BATCH


class RawCost(msgspec.Struct, frozen=True):
    """What users cost.

    Attributes:
        users: Number of them.
        cpu_s: CPU seconds of the process, all threads.
        wall_s: Seconds that passed.
        call_p50_ms: Median of one call.
    """

    users: int
    cpu_s: float
    wall_s: float
    call_p50_ms: float

    @property
    def cpu_us(self) -> float:
        """Microseconds of CPU a user."""
        return self.cpu_s / self.users * 1e6

    @property
    def users_per_s(self) -> float:
        """Users a second."""
        return self.users / self.wall_s


class RawSearch:
    """The index of a snapshot in plain hnswlib, with the snapshot's `ef` and as many threads as serving has."""

    def __init__(self, home: Workspace, encoder_folder: Path) -> None:
        self._encoder = TextEncoder(encoder_folder)
        folder = current(home.snapshots)
        snapshot = Snapshot.load(folder, encoder=self._encoder.fingerprint)
        self._vectors = snapshot.text.vectors
        self._index = hnswlib.Index(space="ip", dim=snapshot.manifest.text.dim)
        self._index.load_index(str(space_folder(folder) / GRAPH), max_elements=snapshot.manifest.items)
        self._index.set_ef(snapshot.manifest.text.engine.parameters["ef"])
        self._index.set_num_threads(cpu.usable_cores())

    def run(self, job: RawJob) -> RawCost:
        """Search for the users of a job. Vectors of known rows are pooled beforehand, texts while the clock runs."""
        if job.texts:
            texts = job.texts
            return _timed(lambda part: self._search(self._user_vectors(texts[part])), len(texts), job.batch)
        users = normalised_means(self._vectors[np.array(job.rows)])
        return _timed(lambda part: self._search(users[part]), len(users), job.batch)

    def _search(self, users: Vectors) -> None:
        self._index.knn_query(users, k=K)

    def _user_vectors(self, histories: Sequence[Sequence[str]]) -> Vectors:
        vectors = self._encoder.encode([text for history in histories for text in history], role="query")
        return normalised_means(vectors.reshape(len(histories), -1, self._encoder.dim))


class RawProcess(Worker[RawCost]):
    """`RawSearch` in a process where BLAS has no threads, whose idle turns would count as CPU of the search."""

    def __init__(self, home: Path, encoder_folder: Path, *, huge_pages: bool = False) -> None:
        """Start it.

        Args:
            home: Of the corpus.
            encoder_folder: What encodes.
            huge_pages: Whether it asks for huge pages, as the serving processes do.
        """
        environment = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        if huge_pages:
            environment["GLIBC_TUNABLES"] = with_huge_pages(os.environ.get("GLIBC_TUNABLES", ""))
        super().__init__(
            "recserve_benchmarks.recommend.raw",
            str(home),
            str(encoder_folder),
            answer=RawCost,
            environment=environment,
            name="the raw search",
        )

    def known(self, rows: NDArray[np.int64], batch: int = BATCH) -> RawCost:
        """Search for users with histories [users, behaviours] of known rows."""
        return self.ask(RawJob(rows=rows.tolist(), batch=batch))

    def texts(self, histories: Sequence[Sequence[str]]) -> RawCost:
        """Tokenise, encode, pool and search histories of texts of one length."""
        return self.ask(RawJob(texts=[list(history) for history in histories]))


def _timed(work: Callable[[slice], Any], users: int, batch: int) -> RawCost:
    calls = []
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    for start in range(0, users, batch):
        call_s = time.perf_counter()
        work(slice(start, start + batch))
        calls.append(time.perf_counter() - call_s)
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    return RawCost(users, cpu_s, wall_s, float(np.median(calls)) * 1000)


if __name__ == "__main__":
    work_on_jobs(RawJob, RawSearch(Workspace(Path(sys.argv[1])), Path(sys.argv[2])).run)
