"""How long a snapshot takes to start serving, and what memory it needs then, in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import psutil

from recserve_benchmarks.harness.corpus import item_ids
from recserve_benchmarks.harness.worker import Worker
from recserve_export.index.recall import sample_users
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.units import MIB
from recserve_server_ext.index.engines.engine import Engine
from recserve_server_ext.index.snapshot import Content, Snapshot, write
from recserve_server_ext.index.space import TEXT, SpaceContent

_BATCH: Final = 32
_USERS: Final = 500


def measure(vectors: Vectors, engine: Engine, seed: int) -> dict[str, float]:
    """Write a snapshot and start it.

    Returns:
        `start_s`: seconds from opening the folder to the first answer, checksums verified. `private_mb` and
        `mapped_mb`: MiB beyond those of Python and its modules after many searches. Pages of mapped files are shared
        by processes and given up under pressure. `disk_mb`: MiB.
    """
    queries = sample_users(vectors, count=_USERS, seed=seed).vectors["interests"]
    spaces = {TEXT: SpaceContent(vectors=vectors, engine=engine)}
    with TemporaryDirectory(prefix="recserve-start-") as aside:
        content = Content(spaces=spaces, ids=item_ids(len(vectors)), encoder="bench", revision=1)
        folder = write(Path(aside) / "snapshots", content)
        disk_mb = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / MIB
        with Worker("the start of a snapshot", starter, folder) as worker:
            return {**worker.ask(queries), "disk_mb": disk_mb}


def starter(folder: Path) -> Callable[[Vectors], dict[str, float]]:
    """What starts a snapshot and searches it for users [users, dim]."""
    import faiss  # noqa: F401 - a server has loaded it before

    def start(queries: Vectors) -> dict[str, float]:
        private_mb, mapped_mb = _memory_mb()
        began = time.perf_counter()
        engine = Snapshot.load(folder).text.engine
        engine.search(queries[:1], 10)
        start_s = time.perf_counter() - began
        for first in range(0, len(queries), _BATCH):
            engine.search(queries[first : first + _BATCH], 10)
        after_mb = _memory_mb()
        return {"start_s": start_s, "private_mb": after_mb[0] - private_mb, "mapped_mb": after_mb[1] - mapped_mb}

    return start


def _memory_mb() -> tuple[float, float]:
    """Private memory of this process, and pages of mapped files."""
    maps = psutil.Process().memory_maps(grouped=False)
    private = sum(of.anonymous for of in maps)
    return private / MIB, (sum(of.rss for of in maps) - private) / MIB
