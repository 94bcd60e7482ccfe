"""Filtered retrieval: recall@10 and speed where a thousandth, a twentieth and half of the items match."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recserve_benchmarks.retrieve.views import BATCH, K
from recserve_export.index.recall import TIE, normalised_means, sample_histories
from recserve_server_ext.attributes.view import Allowed
from recserve_server_ext.catalogue.view import view_over
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.index.engines.engine import Engine
from recserve_server_ext.retrieval.search import CandidateSpec, search

SHARES = (0.001, 0.05, 0.5)
_USERS = 320


def measure(vectors: Vectors, engine: Engine, rounds: int, seed: int) -> dict[str, Any]:
    """For each share of matching items, drawn at random or the items nearest to one of them.

    Returns:
        share -> recall_at_10 (the worse of the two kinds of masks, `interests`), ratio_to_unfiltered (users/s over
        those without a filter, also the worse), and the figures of each kind. A batch has the same filter.
    """
    random = np.random.default_rng(seed)
    view = view_over(vectors, engine).text
    rows = sample_histories(vectors, count=_USERS, seed=seed)["interests"]
    users = normalised_means(vectors[rows])
    masks = {
        (share, kind): _mask(vectors, share, kind, random) for share in SHARES for kind in ("random", "correlated")
    }
    filters: dict[Any, Allowed | None] = {None: None, **{key: _allowed(mask) for key, mask in masks.items()}}
    wanted = {key: [CandidateSpec(K, history, None, allowed) for history in rows] for key, allowed in filters.items()}
    rates: dict[Any, list[float]] = {key: [] for key in wanted}
    for _ in range(rounds):
        for key, want in wanted.items():
            start = time.perf_counter()
            for first in range(0, _USERS, BATCH):
                search(view, users[first : first + BATCH], want[first : first + BATCH])
            rates[key].append(_USERS / (time.perf_counter() - start))
    plain = median(rates[None])
    results: dict[str, Any] = {}
    for share in SHARES:
        kinds = {}
        for kind in ("random", "correlated"):
            found = search(view, users, wanted[share, kind])
            kinds[kind] = {
                "recall_at_10": _recall(vectors, users, rows, masks[share, kind], found),
                "users_per_s": median(rates[share, kind]),
                "ratio_to_unfiltered": median(rates[share, kind]) / plain,
            }
        worse = {name: min(of[name] for of in kinds.values()) for name in ("recall_at_10", "ratio_to_unfiltered")}
        results[f"{share:g}"] = {**worse, "kinds": kinds}
    return results


def _mask(vectors: Vectors, share: float, kind: str, random: np.random.Generator) -> NDArray[np.bool_]:
    items = len(vectors)
    count = max(1, round(items * share))
    mask = np.zeros(items, np.bool_)
    if kind == "random":
        mask[random.choice(items, count, replace=False)] = True
    else:
        near = vectors @ vectors[random.integers(items)]
        mask[np.argpartition(-near, count - 1)[:count]] = True
    return mask


def _allowed(mask: NDArray[np.bool_]) -> Allowed:
    return Allowed(mask, len(mask))


def _recall(
    vectors: Vectors,
    users: Vectors,
    histories: NDArray[np.int64],
    mask: NDArray[np.bool_],
    found: list[NDArray[np.int64]],
) -> float:
    """Against an exact search over what matches and is not in the history; ties with the last count."""
    shares = []
    for user, history, rows in zip(users, histories, found, strict=True):
        usable = mask.copy()
        usable[history] = False
        scores = vectors[usable] @ user
        wanted = min(K, len(scores))
        if wanted:
            last = np.partition(-scores, wanted - 1)[wanted - 1]
            shares.append(np.count_nonzero(vectors[rows] @ user >= -last - TIE) / wanted)
    return float(np.mean(shares))
