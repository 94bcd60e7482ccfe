"""Metrics of rankings: accuracy of each user, and what describes the lists."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from scipy import stats
from scipy.cluster.vq import kmeans2, vq
from scipy.spatial.distance import jensenshannon

from recserve_benchmarks.evaluation.ranking import Known
from recserve_export.training.ndcg import ndcg
from recserve_server_ext.common.arrays import Floats, Ints, Mask, Vectors

#: Lengths of the lists.
CUTOFFS: Final = (5, 10, 20)
ACCURACY: Final = tuple(f"{name}_at_{k}" for name in ("hr", "ndcg", "mrr", "recall") for k in CUTOFFS)
_LIST: Final = 10
#: Kinds of items for the calibration, and the items that they are found among.
_KINDS: Final = 20
_SAMPLE: Final = 20_000


def accuracy(rankings: Ints, targets: Any, names: tuple[str, ...] = ACCURACY) -> dict[str, Floats]:
    """Accuracy metrics by name, each [n]: NaN for a user with nothing to be found, 0 for an empty ranking.

    hr: whether a target is among the first k. ndcg: sum over targets in the list of 1 / log2(1 + place), divided by
    the best possible. mrr: 1 / place of the first target, 0 beyond k. recall: share of the targets that are found.

    Args:
        rankings: [n, length] items, best first, -1 after the last; length is at least the greatest cut-off asked for.
        targets: Sparse [n, items] bool: whether an item is to be found.
        names: Metrics to compute.
    """
    hits, wanted = found_targets(rankings, targets), np.diff(targets.indptr)
    first = np.where(hits.any(axis=1), hits.argmax(axis=1), max(CUTOFFS))
    asked = np.where(wanted > 0, wanted, np.nan)

    def value(kind: str, k: int) -> Floats:
        if kind == "hr":
            return (first < k).astype(np.float64)
        if kind == "mrr":
            return np.where(first < k, 1.0 / (first + 1.0), 0.0)
        if kind == "recall":
            return np.asarray(hits[:, :k].sum(axis=1) / asked)
        return ndcg(hits[:, :k], wanted)

    parsed = ((name, *name.split("_at_")) for name in names)
    return {name: np.where(wanted > 0, value(kind, int(k)), np.nan) for name, kind, k in parsed}


def found_targets(rankings: Ints, targets: Any) -> Mask:
    """[n, length] whether each ranked item is a target of the user."""
    n, items = targets.shape
    keys = np.sort(np.repeat(np.arange(n), np.diff(targets.indptr)) * items + targets.indices)
    asked = np.arange(n)[:, None] * items + rankings
    if not len(keys):
        return np.zeros(rankings.shape, np.bool_)
    places = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.asarray((keys[places] == asked) & (rankings >= 0))


def restricted(targets: Any, items: Mask) -> Any:
    """The targets among some items."""
    found = targets.copy()
    found.data = items[found.indices]
    found.eliminate_zeros()
    return found


class Lists:
    """Describes the lists of ten of a part; made once for all systems.

    - novelty: mean self-information -log2((c + 1) / (n + 1)) of the recommended items in bits, c of the n users being
      known to have turned to the item (T. Zhou et al., PNAS 107, 2010; + 1 keeps new items finite).
    - diversity: mean of 1 - cos over the pairs of a list, of items with a text.
    - calibration: Jensen-Shannon distance (base 2) between the kinds of items in the history and in the list, 0 for
      equal shares (after H. Steck, RecSys 2018). Kinds are clusters of the text vectors.
    - coverage: share of all items that are in a list.
    - gini: Gini coefficient of how often each item is recommended: 0 for all equally, near 1 for always the same few.
    - popularity_rank: mean rank by popularity of the recommended items as a share of all items; the most popular is 0.
    """

    def __init__(self, known: Known, kinds: Ints) -> None:
        """
        Args:
            known: What is known in the part.
            kinds: [items] kind of each item; -1 without a text.
        """
        self._known, self._kinds = known, kinds
        active = int((np.diff(known.columns.offsets) > 0).sum())
        self._information = -np.log2((known.popularity + 1) / (active + 1))
        # Equally popular items share their mean rank.
        self._rank = (stats.rankdata(-known.popularity) - 1) / max(known.items - 1, 1)
        histories = known.histories
        self._liked = self._shares(histories.user, histories.subject, len(known.part.users))

    def of_users(self, rankings: Ints) -> dict[str, Floats]:
        """[n] novelty, diversity and calibration of each list; NaN where there is none."""
        lists = rankings[:, :_LIST]
        user, place = np.nonzero(lists >= 0)
        shown = lists[user, place]
        n = len(lists)
        with np.errstate(invalid="ignore", divide="ignore"):
            novelty = np.bincount(user, self._information[shown], n) / np.bincount(user, minlength=n)
            calibration = jensenshannon(self._liked, self._shares(user, shown, n), base=2, axis=1)
        return {"novelty": novelty, "diversity": self._diversity(lists), "calibration": calibration}

    def of_all(self, rankings: Ints) -> dict[str, float]:
        """Coverage, Gini coefficient and popularity rank; empty where nobody has a list."""
        lists = rankings[:, :_LIST]
        shown = lists[lists >= 0]
        if not len(shown):
            return {}
        counts = np.bincount(shown, minlength=self._known.items)
        return {
            "coverage": float((counts > 0).mean()),
            "gini": gini(counts),
            "popularity_rank": float(self._rank[shown].mean()),
        }

    def _shares(self, user: Ints, items: Ints, n: int) -> Floats:
        """[n, kinds] share of each kind in the items of a user."""
        kinds = self._kinds[items]
        keys = user[kinds >= 0] * _KINDS + kinds[kinds >= 0]
        counts = np.bincount(keys, minlength=n * _KINDS).reshape(n, _KINDS).astype(np.float64)
        with np.errstate(invalid="ignore"):
            return np.asarray(counts / counts.sum(axis=1, keepdims=True))

    def _diversity(self, lists: Ints) -> Floats:
        """[n] from the length of the sum s of m unit vectors: the mean cosine of pairs is (|s|^2 - m) / (m (m - 1))."""
        found = np.full(len(lists), np.nan)
        for start in range(0, len(lists), 1024):
            of = lists[start : start + 1024]
            vectors = self._known.vectors[np.maximum(of, 0)]
            vectors[of < 0] = 0.0
            m = vectors.any(axis=2).sum(axis=1)
            squared = (vectors.sum(axis=1, dtype=np.float64) ** 2).sum(axis=1)
            with np.errstate(invalid="ignore", divide="ignore"):
                found[start : start + 1024] = np.where(m > 1, 1.0 - (squared - m) / (m * (m - 1)), np.nan)
        return found


def item_kinds(vectors: Vectors, seed: int = 0) -> Ints:
    """[items] the nearest of 20 means of text vectors (k-means); -1 without a text."""
    kinds = np.full(len(vectors), -1, np.int64)
    places = np.flatnonzero(vectors.any(axis=1))
    if not len(places):
        return kinds
    rng = np.random.default_rng(seed)
    sample = places if len(places) <= _SAMPLE else np.sort(rng.choice(places, _SAMPLE, replace=False))
    count = min(_KINDS, len(np.unique(vectors[sample], axis=0)))
    means, _ = kmeans2(vectors[sample], count, minit="++", seed=rng, missing="warn")
    for start in range(0, len(places), _SAMPLE):
        block = places[start : start + _SAMPLE]
        kinds[block] = vq(vectors[block], means)[0]
    return kinds


def gini(counts: Ints) -> float:
    """Gini coefficient: sum_i (2 i - n - 1) c_i / (n sum c), c ascending, i from 1."""
    ordered = np.sort(counts)
    n = len(ordered)
    return float(((2 * np.arange(1, n + 1) - n - 1) * ordered).sum() / (n * ordered.sum()))
