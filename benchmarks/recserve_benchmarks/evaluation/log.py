"""Systems that know what all users did: popularity, and item-to-item counts."""

from __future__ import annotations

from itertools import product
from typing import Final

import numpy as np
from scipy import sparse

from recserve_benchmarks.evaluation.ranking import Known
from recserve_benchmarks.evaluation.system import Settings, System, scored
from recserve_benchmarks.evaluation.text import PLAIN, rules_of
from recserve_server_ext.common.arrays import Scores
from recserve_server_ext.common.units import DAY_S
from recserve_server_ext.history.weights import weigh

_HALF_LIVES: Final = (0.5, 1.0, 2.0, 7.0, 15.0)
_SHRINKS: Final = (0.0, 10.0, 50.0)
_NEIGHBOURS: Final = (30, 100, 10_000)


def popularity(known: Known, _: Settings) -> Scores:
    """How many users turned to each item, the same for everybody."""
    counts = known.popularity.astype(np.float32)
    return np.tile(counts, (len(known.part.users), 1))


def recent_popularity(known: Known, settings: Settings) -> Scores:
    """How often users turned to each item, an interaction counting half as much with every half-life before now.

    Now is the newest interaction that is known, of anybody.
    """
    age_s = (known.columns.time_us.max() - known.columns.time_us) / 1e6
    weight = np.exp2(-age_s / (settings["half_life_days"] * DAY_S))
    counts = np.bincount(known.columns.subject, weights=weight, minlength=len(known.vectors)).astype(np.float32)
    return np.tile(counts, (len(known.part.users), 1))


def similarities(known: Known, shrink: float, neighbours: int) -> Scores:
    """[items, items] s(i, j) = c_ij / (sqrt(c_i c_j) + shrink), c = users of both, 0 on the diagonal.

    Each row keeps its largest `neighbours`; F. Aiolli, "Efficient top-N recommendation for very large scale binary
    rated datasets", RecSys 2013, and R. Bell and Y. Koren for the shrinkage.
    """
    own = np.sqrt(known.popularity).astype(np.float32)
    similar: Scores = np.outer(own, own)
    similar += np.float32(shrink)
    np.divide(known.together, np.maximum(similar, np.float32(1e-9), out=similar), out=similar)
    np.fill_diagonal(similar, 0.0)
    if neighbours < len(similar):
        floor = np.partition(similar, len(similar) - neighbours, axis=1)[:, len(similar) - neighbours]
        similar[similar < floor[:, None]] = 0.0
    return similar


def item_knn(known: Known, settings: Settings) -> Scores:
    """sum_j w_j s(j, i) over the history, with the weights that the rules give."""
    found = weigh(known.histories, rules_of(settings, PLAIN))
    user = np.repeat(np.arange(len(known.part.users)), np.diff(found.offsets))
    item = known.histories.subject[found.index]
    shape = (len(known.part.users), len(known.vectors))
    history = sparse.csr_array((found.weight.astype(np.float32), (user, item)), shape)
    return scored(history @ similarities(known, settings["shrink"], settings["neighbours"]), known)


SYSTEMS: Final = (
    System(name="popularity", kind="popularity", score=popularity),
    System(
        name="popularity, recent",
        kind="popularity",
        score=recent_popularity,
        grid=tuple({"half_life_days": days} for days in (1.0, 3.0, 10.0, 30.0, 100.0)),
    ),
    System(
        name="item-kNN",
        kind="log",
        score=item_knn,
        grid=tuple(
            {"shrink": shrink, "neighbours": most, "half_life_events": None}
            for shrink, most in product(_SHRINKS, _NEIGHBOURS)
        ),
    ),
    System(
        name="item-kNN, recency",
        kind="log",
        score=item_knn,
        grid=tuple(
            {"shrink": shrink, "neighbours": most, "half_life_events": half_life}
            for shrink, most, half_life in product(_SHRINKS, _NEIGHBOURS, _HALF_LIVES)
        ),
    ),
)
