"""Retrieval over the bare engine: without changes, with a delta of a hundredth of the items, and with filters."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any, Final

import numpy as np

from recserve_benchmarks.harness.recall import K, recall_at_10
from recserve_benchmarks.harness.run import Run
from recserve_export.index.recall import normalised_means, sample_histories
from recserve_server_ext.attributes.view import Allowed
from recserve_server_ext.catalogue.store import StoredItem
from recserve_server_ext.catalogue.view import Delta, View, view_over
from recserve_server_ext.common.arrays import Mask, Rows, Vectors
from recserve_server_ext.index.engines.engine import Engine
from recserve_server_ext.retrieval.search import CandidateSpec, search

#: Shares of the items that match a filter.
SHARES: Final = {"1/1000": 0.001, "1/20": 0.05, "1/2": 0.5}
#: Which items match: random ones, or those nearest to one item.
MASKS: Final = ("random", "nearest")
_BATCH: Final = 32
_USERS: Final = 640

Call = Callable[[slice], Any]


def measure(vectors: Vectors, engine: Engine, run: Run) -> dict[str, Any]:
    """Users/s of retrieval against the bare engine, in interleaved rounds of batches of 32.

    Users have a history of 20 items that is left out of the answer, and ten items are wanted. All users of a batch have
    the same filter.

    Args:
        vectors: [items, dim] unit float32.
        engine: Over them.
        run: Of the benchmark.

    Returns:
        `ratio_to_raw`: users/s over those of a bare call that leaves out the same items, without and with a delta.
        `filtered`: by share of matching items, recall@10 and the speed over that without a filter, of the worse kind of
        mask and of each.
    """
    rows = sample_histories(vectors, count=_USERS, seed=run.seed)["interests"]
    users = normalised_means(vectors[rows])
    plain = view_over(vectors, engine)
    changed = with_delta(plain, 0.01, run.seed)
    random = np.random.default_rng(run.seed)
    masks = {(name, kind): _mask(vectors, share, kind, random) for name, share in SHARES.items() for kind in MASKS}

    def retrieval(view: View, mask: Mask | None = None) -> Callable[[slice], list[Rows]]:
        allowed = None if mask is None else Allowed(mask, len(mask))
        specs = [CandidateSpec(K, history, None, allowed) for history in rows]
        return lambda part: search(view.text, users[part], specs[part])

    filtered = {key: retrieval(plain, mask) for key, mask in masks.items()}
    calls: dict[Any, Call] = {
        "bare": lambda part: engine.search(users[part], K, banned=list(rows[part])),
        "no_delta": retrieval(plain),
        "delta_1pct": retrieval(changed),
        **filtered,
    }
    rates = _rates(calls, run)
    ratios = {name: rates[name] / rates["bare"] for name in ("no_delta", "delta_1pct")}
    recalls = {key: recall_at_10(vectors, rows, call(slice(None)), masks[key]) for key, call in filtered.items()}
    return {
        "ratio_to_raw": {**ratios, "users_per_s": rates["bare"]},
        "filtered": {name: _of_share(name, recalls, rates) for name in SHARES},
    }


def _of_share(name: str, recalls: dict[Any, float], rates: dict[Any, float]) -> dict[str, Any]:
    """Figures of a share of matching items: of the worse kind of mask, and of each."""
    kinds = {
        kind: {
            "recall_at_10": recalls[name, kind],
            "ratio_to_unfiltered": rates[name, kind] / rates["no_delta"],
        }
        for kind in MASKS
    }
    worse = {figure: min(of[figure] for of in kinds.values()) for figure in kinds[MASKS[0]]}
    return {**worse, **kinds}


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


def _rates(calls: dict[Any, Call], run: Run) -> dict[Any, float]:
    """Users/s of each call, medians over the rounds."""
    rates: dict[Any, list[float]] = {name: [] for name in calls}
    for _ in run.each("retrieval over the engine", range(run.rounds)):
        for name, call in calls.items():
            start = time.perf_counter()
            for first in range(0, _USERS, _BATCH):
                call(slice(first, first + _BATCH))
            rates[name].append(_USERS / (time.perf_counter() - start))
    return {name: median(values) for name, values in rates.items()}


def _mask(vectors: Vectors, share: float, kind: str, random: np.random.Generator) -> Mask:
    items = len(vectors)
    count = max(1, round(items * share))
    mask = np.zeros(items, np.bool_)
    if kind == "random":
        mask[random.choice(items, count, replace=False)] = True
    else:
        near = vectors @ vectors[random.integers(items)]
        mask[np.argpartition(-near, count - 1)[:count]] = True
    return mask
