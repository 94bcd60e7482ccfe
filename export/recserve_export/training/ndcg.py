"""NDCG of ranked lists, for all that judges a training."""

from __future__ import annotations

import numpy as np

from recserve_server_ext.common.arrays import Floats, Ints, Mask


def ndcg(hits: Mask, wanted: Ints) -> Floats:
    """[lists] sum of 1 / log2(1 + place) over the hits, divided by the best possible; NaN where nothing is wanted.

    K. Järvelin and J. Kekäläinen, "Cumulated gain-based evaluation of IR techniques", 2002, for items that are right or
    wrong.

    Args:
        hits: [lists, length] whether the item at each place is right.
        wanted: [lists] number of items that are right, in the list or not.
    """
    discounts = 1.0 / np.log2(np.arange(hits.shape[1]) + 2.0)
    ideal = np.append(np.nan, np.cumsum(discounts))
    found: Floats = hits @ discounts / ideal[np.minimum(wanted, hits.shape[1])]
    return found
