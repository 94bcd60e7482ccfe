"""Latency through a compaction and the swap to its snapshot, with upserts running."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.harness.corpus import infer_requests, known_requests
from recserve_benchmarks.harness.load import write_blobs
from recserve_benchmarks.harness.servers import Server, ours
from recserve_benchmarks.harness.timeline import Timeline
from recserve_client import Client, ClientOptions, NewItem
from recserve_client.contract import models
from recserve_export.index.recall import sample_histories
from recserve_server_ext.catalogue.store import CatalogueStore, StoredItem
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.index.engines.engine import Engine
from recserve_server_ext.index.snapshot import Content, write
from recserve_server_ext.index.space import TEXT, SpaceContent

CALLERS = 8
#: Seconds of load before the changes come to the number that starts a compaction.
_BEFORE_S = 10.0
#: And after the swap.
_AFTER_S = 5.0
_LONGEST_S = 300.0
_UPSERT = 10
_PAUSE_S = 0.25
_COMPACT_AFTER = 600


@dataclass(frozen=True, kw_only=True)
class Served:
    """What is served.

    Attributes:
        vectors: [items, dim].
        engine: Over them.
        encoders: Folder of the encoders.
        precision: Of the encoder that made the vectors.
        fingerprint: Its runtime fingerprint.
    """

    vectors: Vectors
    engine: Engine
    encoders: Path
    precision: str
    fingerprint: str


def measure(served: Served, seed: int, done: Callable[[str, int, int], None]) -> dict[str, Any]:
    """Serve a store of these items under load, change items all the while, and watch one compaction and its swap.

    Returns:
        failed, p99_ratio (p99 from the start of the compaction to the swap over p99 before), and the timeline.
    """
    with tempfile.TemporaryDirectory(prefix="recserve-swap-") as folder:
        home = Workspace(Path(folder))
        _publish(home, served)
        config = home.home / "serve.toml"
        config.write_text(f"compact_after = {_COMPACT_AFTER}\n")
        with ours(home.home, served.precision, "--config", str(config), "--log-json") as server:
            requests = home.home / "requests"
            rows = sample_histories(served.vectors, count=2000, seed=seed)["interests"]
            write_blobs(requests, infer_requests(models.RECOMMEND, known_requests(rows)))
            return _watch(home, server, requests, done)


def _publish(home: Workspace, served: Served) -> None:
    """A store and a snapshot of the items, as import and index build would leave them."""
    home.encoder.symlink_to(served.encoders.resolve(), target_is_directory=True)
    ids = [f"t{row}" for row in range(len(served.vectors))]
    weights = {"title": 1.0}
    with CatalogueStore(home.store, create=True) as store:
        store.replace_all((StoredItem(name, {"title": name}, {}) for name in ids), field_weights=weights)
        head = store.head()
    content = Content(
        spaces={TEXT: SpaceContent(vectors=served.vectors, engine=served.engine)},
        ids=ids,
        encoder=served.fingerprint,
        revision=head.revision,
        source=head.identity,
        field_weights=weights,
    )
    write(home.snapshots, content)


def _watch(home: Workspace, server: Server, requests: Path, done: Callable[[str, int, int], None]) -> dict[str, Any]:
    stop, out = home.home / "stop", home.home / "seen.npy"
    load = Timeline(server.address, str(requests), CALLERS, str(stop), str(out))
    process = subprocess.Popen([sys.executable, "-m", "recserve_benchmarks.harness.timeline"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(load))
    process.stdin.close()
    ended = threading.Event()
    upserts: list[float] = []
    writer = threading.Thread(target=_upsert, args=(server.address, ended, upserts))
    start_s = time.time()
    writer.start()
    try:
        compacted = _wait_for_swap(home, server, start_s, done)
        time.sleep(_AFTER_S)
    finally:
        ended.set()
        writer.join()
        stop.touch()
        process.wait(90)
    seen = np.load(out)
    return {**_figures(seen, *compacted), "upserts": len(upserts) * _UPSERT, "upsert_p50_ms": float(np.median(upserts))}


def _upsert(address: str, ended: threading.Event, took_ms: list[float]) -> None:
    number = 0
    with Client(address, ClientOptions(deadline_s=60)) as client:
        # First without coming to the number that starts a compaction, then on.
        while not ended.wait(_PAUSE_S):
            items = [NewItem(f"n{number + place}", {"title": f"upserted {number + place}"}) for place in range(_UPSERT)]
            start = time.perf_counter()
            client.items.upsert(items)
            took_ms.append((time.perf_counter() - start) * 1000)
            number += _UPSERT


def _wait_for_swap(
    home: Workspace, server: Server, start_s: float, done: Callable[[str, int, int], None]
) -> tuple[float, float]:
    """Moments at which the compaction started and the swap was done."""
    while time.time() - start_s < _LONGEST_S:
        done("swap under load", int(time.time() - start_s), int(_LONGEST_S))
        events = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
        started = [event for event in events if event["event"] == "compaction_started"]
        failed = [event for event in events if event["event"] == "compaction_failed"]
        if failed:
            raise BenchmarkError(f"the compaction failed: {failed[0]['fault']}")
        if started and (swapped := _swapped(home)):
            return datetime.fromisoformat(started[0]["time"]).timestamp(), swapped
        time.sleep(0.25)
    raise BenchmarkError(f"no compaction was swapped in within {_LONGEST_S:.0f} s; see the server's log")


def _swapped(home: Workspace) -> float | None:
    """When `recommend` said that it serves a new snapshot; its log has no times, so now."""
    (log,) = home.run.glob("*/triton.log")
    return time.time() if "serving snapshot" in log.read_text(errors="replace") else None


def _figures(seen: NDArray[np.float64], started_s: float, swapped_s: float) -> dict[str, Any]:
    moments, took_ms, failed = seen.T
    before = took_ms[moments < started_s]
    during = took_ms[(moments >= started_s) & (moments <= swapped_s + 1)]
    if not len(before) or not len(during):
        raise BenchmarkError(f"{len(before)} answers before the compaction, {len(during)} during it: too few")
    first = moments.min()
    return {
        "failed": int(failed.sum()),
        "requests": len(seen),
        "p99_before_ms": float(np.percentile(before, 99)),
        "p99_during_ms": float(np.percentile(during, 99)),
        "p99_ratio": float(np.percentile(during, 99) / np.percentile(before, 99)),
        "longest_during_ms": float(during.max()),
        "compaction_s": swapped_s - started_s,
        "timeline": {
            "compaction_started_s": started_s - first,
            "swapped_s": swapped_s - first,
            **_by_second(moments - first, took_ms),
        },
    }


def _by_second(seconds: NDArray[np.float64], took_ms: NDArray[np.float64]) -> dict[str, list[float]]:
    bins = seconds.astype(np.int64)
    present = np.unique(bins)
    parts = [took_ms[bins == second] for second in present.tolist()]
    return {
        "second": present.astype(float).tolist(),
        "p50_ms": [float(np.percentile(part, 50)) for part in parts],
        "p99_ms": [float(np.percentile(part, 99)) for part in parts],
    }
