"""Metrics of rankings: accuracy through ir-measures, and coverage, novelty and popularity bias."""

from __future__ import annotations

from typing import Any, Final

import ir_measures
import numpy as np
from scipy import stats

from recserve_benchmarks.evaluation.ranking import Known
from recserve_server_ext.common.arrays import Floats, Ints, Mask

#: Lengths of the lists.
CUTOFFS: Final = (5, 10, 20)
_MEASURES: Final[dict[str, Any]] = {
    f"{name}@{k}": measure @ k
    for name, measure in {
        "hr": ir_measures.Success,
        "ndcg": ir_measures.nDCG,
        "mrr": ir_measures.RR,
        "recall": ir_measures.R,
    }.items()
    for k in CUTOFFS
}
ACCURACY: Final = tuple(_MEASURES)
_LIST: Final = 10


def accuracy(rankings: Ints, targets: Mask, names: tuple[str, ...] = ACCURACY) -> dict[str, Floats]:
    """Accuracy metrics by name, each [n]: NaN for a user with nothing to be found, 0 for an empty ranking.

    hr: whether a target is among the first k. ndcg: sum over targets in the list of 1 / log2(1 + place), divided by
    the best possible. mrr: 1 / place of the first target, 0 beyond k. recall: share of the targets that are found.

    Args:
        rankings: [n, k] items, best first, -1 after the last; k is at least the greatest cut-off asked for.
        targets: [n, items] whether an item is to be found.
        names: Metrics to compute.
    """
    asked = targets.any(axis=1)
    values = {name: np.where(asked, 0.0, np.nan) for name in names}
    users, items = np.nonzero(targets)
    qrels: dict[str, dict[str, int]] = {}
    for user, item in zip(users.tolist(), items.tolist(), strict=True):
        qrels.setdefault(str(user), {})[str(item)] = 1
    run: dict[str, dict[str, float]] = {}
    for user in np.flatnonzero(asked).tolist():
        # Falling scores, since ir-measures orders by score.
        found = {str(item): float(-place) for place, item in enumerate(rankings[user].tolist()) if item >= 0}
        if found:
            run[str(user)] = found
    name_of = {_MEASURES[name]: name for name in names}
    for found_metric in ir_measures.iter_calc(list(name_of), qrels, run):
        values[name_of[found_metric.measure]][int(found_metric.query_id)] = found_metric.value
    return values


def beyond_accuracy(rankings: Ints, known: Known) -> dict[str, float]:
    """Metrics of the lists of ten of all users together; empty where nobody has a list.

    - coverage: share of all items that are in a list.
    - novelty: mean self-information -log2((c + 1) / (n + 1)) of the recommended items in bits, c of the n users
      being known to have turned to the item (T. Zhou et al., PNAS 107, 2010; + 1 keeps new items finite).
    - gini: Gini coefficient of how often each item is recommended: 0 for all equally, near 1 for always the same few.
    - popularity_rank: mean rank by popularity of the recommended items as a share of all items; the most popular is 0.
    """
    lists = rankings[:, :_LIST]
    shown = lists[lists >= 0]
    items = len(known.popularity)
    if not len(shown):
        return {}
    counts = np.bincount(shown, minlength=items)
    active = int((np.diff(known.columns.offsets) > 0).sum())
    information = -np.log2((known.popularity + 1) / (active + 1))
    # Equally popular items share their mean rank.
    rank = (stats.rankdata(-known.popularity) - 1) / max(items - 1, 1)
    return {
        "coverage": float((counts > 0).mean()),
        "novelty": float(information[shown].mean()),
        "gini": gini(counts),
        "popularity_rank": float(rank[shown].mean()),
    }


def gini(counts: Ints) -> float:
    """Gini coefficient: sum_i (2 i - n - 1) c_i / (n sum c), c ascending, i from 1."""
    ordered = np.sort(counts)
    n = len(ordered)
    return float(((2 * np.arange(1, n + 1) - n - 1) * ordered).sum() / (n * ordered.sum()))


def measured(rankings: Ints, known: Known) -> dict[str, dict[str, float]]:
    """All metrics: of users with a history, of cold users, of cold items as targets, and of the lists.

    `ndcg@10_se` is the standard error of the mean over the users.
    """
    values = accuracy(rankings, known.part.targets)
    found = {"history": _means(values, known.with_history), "cold_users": _means(values, ~known.with_history)}
    of_cold = accuracy(rankings, known.part.targets & known.cold_items, ("hr@10", "ndcg@10", "recall@10"))
    found["cold_items"] = _means(of_cold, ~np.isnan(of_cold["hr@10"]))
    found["lists"] = beyond_accuracy(rankings[known.with_history], known)
    return found


def _means(values: dict[str, Floats], users: Mask) -> dict[str, float]:
    count = int(users.sum())
    if not count:
        return {"users": 0.0}
    means = {name: float(of[users].mean()) for name, of in values.items()}
    if count > 1:
        means["ndcg@10_se"] = float(stats.sem(values["ndcg@10"][users]))
    return {"users": float(count), **means}
