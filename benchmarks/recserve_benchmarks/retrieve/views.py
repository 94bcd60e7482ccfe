"""Our retrieval against the bare engine call: without a delta, and with one of a hundredth of the items."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from recserve_export.index.recall import normalised_means, sample_histories
from recserve_server_ext.catalogue.store import StoredItem
from recserve_server_ext.catalogue.view import Delta, View, view_over
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.index.engines.engine import Engine
from recserve_server_ext.retrieval.search import CandidateSpec, search, search_width

K = 10
BATCH = 32
_USERS = 640


def with_delta(view: View, share: float, seed: int) -> View:
    """The view with that share of its items changed: each replaced by a point near it."""
    random = np.random.default_rng(seed)
    items, dim = view.text.space.vectors.shape
    rows = np.sort(random.choice(items, round(items * share), replace=False))
    moved = view.text.space.vectors[rows] + random.normal(scale=0.2 / np.sqrt(dim), size=(len(rows), dim))
    vectors = (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)
    available = np.ones(items + len(rows), np.bool_)
    available[rows] = False
    changed = [StoredItem(f"i{row}", {}, {}) for row in rows.tolist()]
    row_of = {item.id: items + place for place, item in enumerate(changed)}
    return View(view.snapshot, Delta(2, changed, vectors, len(rows), row_of, available))


def measure(vectors: Vectors, engine: Engine, rounds: int, seed: int) -> dict[str, Any]:
    """Users/s of retrieval over those of the bare engine call, medians of interleaved rounds.

    Users have a history of 20 items that is left out of the answer, ten items are wanted. The bare call asks the engine
    for as many items as retrieval does, leaves nothing out and looks at no delta.
    """
    rows = sample_histories(vectors, count=_USERS, seed=seed)["interests"]
    users = normalised_means(vectors[rows])
    wanted = [CandidateSpec(K, history) for history in rows]
    plain = view_over(vectors, engine)
    changed = with_delta(plain, 0.01, seed)
    width = search_width(plain.text, wanted[0])
    calls: dict[str, Callable[[slice], Any]] = {
        "bare": lambda part: engine.search(users[part], width),
        "bare_ten": lambda part: engine.search(users[part], K),
        "no_delta": lambda part: search(plain.text, users[part], wanted[part]),
        "delta_1pct": lambda part: search(changed.text, users[part], wanted[part]),
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
