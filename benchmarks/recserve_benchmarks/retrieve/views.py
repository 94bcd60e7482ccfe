"""Our retrieval against the bare engine call: without a delta, and with one of a hundredth of the items."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from recserve_export.index.recall import normalised_means, sample_histories
from recserve_server_ext.catalogue.store import StoredItem
from recserve_server_ext.catalogue.view import Delta, View
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.index.engines.engine import BuiltEngine
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.fields import ItemFields
from recserve_server_ext.index.manifest import EngineManifest, SnapshotManifest
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.retrieval.search import Wanted, search, search_width

K = 10
BATCH = 32
_USERS = 640


def view_of(vectors: Vectors, engine: BuiltEngine) -> View:
    """A view of items ``t0``, ``t1`` ... that are nowhere on disk."""
    items, dim = vectors.shape
    manifest = SnapshotManifest(
        id="bench",
        created="",
        encoder="",
        revision=1,
        items=items,
        dim=dim,
        engine=EngineManifest(name=engine.name, parameters=dict(engine.parameters)),
        measured_with="",
        files={},
    )
    ids = [f"t{row}" for row in range(items)]
    snapshot = Snapshot(
        manifest=manifest,
        vectors=vectors,
        ids=ids,
        row_of={name: row for row, name in enumerate(ids)},
        available=np.ones(items, np.bool_),
        engine=engine,
        exact=ExactEngine(vectors),
        fields=ItemFields(pa.table({})),
    )
    return View(snapshot)


def with_delta(view: View, share: float, seed: int) -> View:
    """The view with that share of its items changed: each replaced by a point near it."""
    random = np.random.default_rng(seed)
    items, dim = view.snapshot.vectors.shape
    rows = np.sort(random.choice(items, round(items * share), replace=False))
    moved = view.snapshot.vectors[rows] + random.normal(scale=0.2 / np.sqrt(dim), size=(len(rows), dim))
    vectors = (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)
    available = np.ones(items + len(rows), np.bool_)
    available[rows] = False
    changed = [StoredItem(f"t{row}", {}, {}) for row in rows.tolist()]
    row_of = {item.id: items + place for place, item in enumerate(changed)}
    return View(view.snapshot, Delta(2, changed, vectors, len(rows), row_of, available))


def measure(vectors: Vectors, engine: BuiltEngine, rounds: int, seed: int) -> dict[str, Any]:
    """Users/s of retrieval over those of the bare engine call, medians of interleaved rounds.

    Users have a history of 20 items that is left out of the answer, ten items are wanted. The bare call asks the engine
    for as many items as retrieval does, leaves nothing out and looks at no delta.
    """
    rows = sample_histories(vectors, count=_USERS, seed=seed)["interests"]
    users = normalised_means(vectors[rows])
    wanted = [Wanted(K, history, None) for history in rows]
    plain = view_of(vectors, engine)
    changed = with_delta(plain, 0.01, seed)
    width = search_width(plain, wanted[0])
    calls: dict[str, Callable[[slice], Any]] = {
        "bare": lambda part: engine.search(users[part], width),
        "bare_ten": lambda part: engine.search(users[part], K),
        "no_delta": lambda part: search(plain, users[part], wanted[part]),
        "delta_1pct": lambda part: search(changed, users[part], wanted[part]),
    }
    rates: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            for first in range(0, _USERS, BATCH):
                call(slice(first, first + BATCH))
            rates[name].append(_USERS / (time.perf_counter() - start))
    users_per_s = {name: median(values) for name, values in rates.items()}
    return {
        "no_delta": users_per_s["no_delta"] / users_per_s["bare"],
        "delta_1pct": users_per_s["delta_1pct"] / users_per_s["bare"],
        "no_delta_to_ten": users_per_s["no_delta"] / users_per_s["bare_ten"],
        "users_per_s": users_per_s,
        "width": width,
    }
