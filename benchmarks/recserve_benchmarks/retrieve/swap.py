"""Latency through a compaction and the swap to its snapshot, while items are upserted."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.harness.corpus import item_ids
from recserve_benchmarks.harness.load import Load, Outcome
from recserve_benchmarks.harness.requests import infer_requests, known_requests
from recserve_benchmarks.harness.run import Run
from recserve_benchmarks.harness.servers import Server, ours
from recserve_client import Client, ClientOptions, NewItem
from recserve_client.contract import models
from recserve_export.index.recall import sample_histories
from recserve_server_ext.catalogue.store import CatalogueStore, StoredItem
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.index.engines.engine import Engine
from recserve_server_ext.index.snapshot import Content, write
from recserve_server_ext.index.space import TEXT, SpaceContent

_CALLERS: Final = 8
#: Seconds of load after the swap.
_AFTER_S: Final = 5.0
_LONGEST_S: Final = 300.0
_UPSERT: Final = 10
_PAUSE_S: Final = 0.25
_COMPACT_AFTER: Final = 600


class Swap(NamedTuple):
    """When a compaction started and when its snapshot was served, seconds since 1970."""

    started_s: float
    swapped_s: float


def measure(vectors: Vectors, engine: Engine, run: Run) -> dict[str, Any]:
    """Serve items under load, change items all the while, and watch one compaction and its swap.

    Args:
        vectors: [items, dim] unit float32, made by the encoder of the run.
        engine: Over them.
        run: Of the benchmark.

    Returns:
        `failed` (requests), `p99_ratio` (from the start of the compaction to the swap, over before), and `timeline`.

    Raises:
        BenchmarkError: The compaction failed or took too long, or there are too few answers.
        ServerError: The server did not start.
    """
    rows = sample_histories(vectors, count=2000, seed=run.seed)["interests"]
    requests = list(infer_requests(models.RECOMMEND, known_requests(rows)))
    with tempfile.TemporaryDirectory(prefix="recserve-swap-") as folder:
        home = Workspace(Path(folder))
        _publish(home, vectors, engine, run)
        config, stop = home.home / "serve.toml", home.home / "stop"
        config.write_text(f"compact_after = {_COMPACT_AFTER}\n")
        more = ("--config", str(config), "--log-json")
        with ours(home, run.manifest.precision, *more) as server, ThreadPoolExecutor(1) as thread:
            load = thread.submit(server.generator.ask, Load(server.address, requests, _CALLERS, until=stop))
            try:
                with _upserts(server.address) as upserted:
                    swap = _wait_for_swap(home, server, run)
                    time.sleep(_AFTER_S)
            finally:
                stop.touch()
            return {**figures(load.result(), swap), "upserts": len(upserted)}


def _publish(home: Workspace, vectors: Vectors, engine: Engine, run: Run) -> None:
    """A store and a snapshot of the items, as import and index build would leave them."""
    home.encoder.symlink_to(run.workspace.encoder.resolve(), target_is_directory=True)
    ids = item_ids(len(vectors))
    weights = {"title": 1.0}
    with CatalogueStore(home.store, create=True) as store:
        store.replace_all((StoredItem(name, {"title": name}, {}) for name in ids), field_weights=weights)
        head = store.head()
    content = Content(
        spaces={TEXT: SpaceContent(vectors=vectors, engine=engine)},
        ids=ids,
        encoder=run.manifest.runtime_fingerprint,
        revision=head.revision,
        source=head.identity,
        field_weights=weights,
    )
    write(home.snapshots, content)


@contextmanager
def _upserts(address: str) -> Iterator[list[str]]:
    """Upsert ten new items again and again; yields the list of their ids."""
    ended, ids = threading.Event(), list[str]()

    def work() -> None:
        with Client(address, ClientOptions(deadline_s=60)) as client:
            while not ended.wait(_PAUSE_S):
                new = [f"n{len(ids) + number}" for number in range(_UPSERT)]
                client.items.upsert([NewItem(item, {"title": f"upserted {item}"}) for item in new])
                ids.extend(new)

    with ThreadPoolExecutor(1) as thread:
        writer = thread.submit(work)
        try:
            yield ids
        finally:
            ended.set()
        writer.result()


def _wait_for_swap(home: Workspace, server: Server, run: Run) -> Swap:
    start_s = time.time()
    while (waited_s := time.time() - start_s) < _LONGEST_S:
        run.show("swap under load", int(waited_s), int(_LONGEST_S))
        events = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
        by_name = {event["event"]: event for event in events}
        if failed := by_name.get("compaction_failed"):
            raise BenchmarkError(f"the compaction failed: {failed['fault']}")
        (log,) = home.run.glob("*/triton.log")
        # The log of Triton has no times, so the swap is now.
        if "compaction_started" in by_name and "serving snapshot" in log.read_text(errors="replace"):
            return Swap(datetime.fromisoformat(by_name["compaction_started"]["time"]).timestamp(), time.time())
        time.sleep(_PAUSE_S)
    raise BenchmarkError(f"no compaction was swapped in within {_LONGEST_S:.0f} s; see the server's log")


def figures(outcome: Outcome, swap: Swap) -> dict[str, Any]:
    """What a load saw of a swap; the timeline has percentiles for each second since its start.

    Raises:
        BenchmarkError: There are too few answers before or during the compaction.
    """
    moments, took_ms = outcome.moments.T
    before = took_ms[moments < swap.started_s]
    during = took_ms[(moments >= swap.started_s) & (moments <= swap.swapped_s + 1)]
    if not len(before) or not len(during):
        raise BenchmarkError(f"{len(before)} answers before the compaction, {len(during)} during it: too few")
    p99_before_ms, p99_during_ms = (float(np.percentile(part, 99)) for part in (before, during))
    first_s = float(moments.min())
    bins = (moments - first_s).astype(np.int64)
    seconds = np.unique(bins)
    p50_ms, p99_ms = np.array([np.percentile(took_ms[bins == second], (50, 99)) for second in seconds]).T
    return {
        "failed": sum(outcome.errors.values()),
        "requests": outcome.users,
        "p99_before_ms": p99_before_ms,
        "p99_during_ms": p99_during_ms,
        "p99_ratio": p99_during_ms / p99_before_ms,
        "longest_during_ms": float(during.max()),
        "compaction_s": swap.swapped_s - swap.started_s,
        "timeline": {
            "compaction_started_s": swap.started_s - first_s,
            "swapped_s": swap.swapped_s - first_s,
            "second": seconds.tolist(),
            "p50_ms": p50_ms.tolist(),
            "p99_ms": p99_ms.tolist(),
        },
    }
