"""Recall of what was found for users with a history, against an exact search with the same exclusions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from recserve_export.index.recall import TIE, normalised_means
from recserve_server_ext.common.arrays import Mask, Rows, Vectors

K: Final = 10


def recall_at_10(vectors: Vectors, histories: Rows, found: Sequence[Sequence[int] | Rows], mask: Mask) -> float:
    """Share of the exact ten that were found, with each user's own history excluded; ties with the tenth count.

    Args:
        vectors: [items, dim] unit vectors.
        histories: [users, behaviours] rows of `vectors`.
        found: Rows found for each user.
        mask: [items] items that may be found.
    """
    hits = wanted = 0
    for history, rows in zip(histories, found, strict=True):
        scores = vectors @ normalised_means(vectors[history][None])[0]
        scores[~mask] = -np.inf
        scores[history] = -np.inf
        best = np.sort(scores)[-K:]
        best = best[np.isfinite(best)]
        if len(best):
            hits += int(np.count_nonzero(scores[np.unique(np.asarray(rows, np.int64))] >= best[0] - TIE))
            wanted += len(best)
    return hits / wanted if wanted else 1.0
