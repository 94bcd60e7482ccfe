"""How long a snapshot takes to start serving, and what memory it needs then: in a process of its own.

Run as ``python -m recserve_benchmarks.retrieve.start``; reads a JSON object from standard input and prints one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from recserve_benchmarks.errors import BenchmarkError
from recserve_server_ext.index.snapshot import Snapshot

_LONGEST_S = 900
_BATCH = 32


class Start(msgspec.Struct, frozen=True):
    """What to start.

    Attributes:
        folder: Of the snapshot.
        queries: NumPy file of the user vectors to search with [users, dim].
        cold: Whether the system is asked to forget the files first, as after a restart of the machine.
    """

    folder: str
    queries: str
    cold: bool


class Started(msgspec.Struct, frozen=True):
    """What was measured.

    Attributes:
        start_s: Seconds from opening the folder to the first answer, checksums verified.
        anonymous_mb: Memory of the process's own beyond what Python and its modules have, after all searches, MiB.
        mapped_mb: Pages of the mapped files that it has touched, MiB: shared by processes, and given up under pressure.
    """

    start_s: float
    anonymous_mb: float
    mapped_mb: float


def start(folder: Path, queries: Path, *, cold: bool) -> Started:
    """Start a snapshot in a new process.

    Raises:
        BenchmarkError: It ended with an error.
    """
    job = msgspec.json.encode(Start(str(folder), str(queries), cold))
    command = [sys.executable, "-m", "recserve_benchmarks.retrieve.start"]
    ran = subprocess.run(command, input=job, capture_output=True, timeout=_LONGEST_S, check=False)
    if ran.returncode:
        raise BenchmarkError(f"{folder} did not start: {ran.stderr.decode(errors='replace').strip()[-2000:]}")
    return msgspec.json.decode(ran.stdout, type=Started)


def _measure(job: Start) -> Started:
    queries = np.load(job.queries)
    folder = Path(job.folder)
    if job.cold:
        _forget(folder)
    # Loaded on its first use; a server has it already.
    import faiss  # noqa: F401

    before = _memory_mb()
    began = time.perf_counter()
    snapshot = Snapshot.load(folder)
    snapshot.text.engine.search(queries[:1], 10)
    start_s = time.perf_counter() - began
    for first in range(0, len(queries), _BATCH):
        snapshot.text.engine.search(queries[first : first + _BATCH], 10)
    after = _memory_mb()
    return Started(start_s, after["Anonymous"] - before["Anonymous"], _mapped(after) - _mapped(before))


def _forget(folder: Path) -> None:
    for path in (path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _memory_mb() -> dict[str, float]:
    """Figures of Linux about this process, MiB."""
    lines = (line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return {name.rstrip(":"): int(kib) / 1024 for name, kib, *_ in lines}


def _mapped(memory: dict[str, float]) -> float:
    return memory["Rss"] - memory["Anonymous"]


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(_measure(msgspec.json.decode(sys.stdin.buffer.read(), type=Start))))
