"""Hard negatives: items whose texts are near each other, though users may not have both.

L. Xiong et al., "Approximate nearest neighbor negative contrastive learning for dense text retrieval", ICLR 2021; here
the index is that of the vectors before the training, and is not made anew.
"""

from __future__ import annotations

import numpy as np

from recserve_server_ext.common.arrays import Floats, Ints, Vectors
from recserve_server_ext.index.engines.exact import ExactEngine


def nearest_items(vectors: Vectors, k: int) -> Ints:
    """[items, k] the nearest other items of each by cosine, at most all others.

    Args:
        vectors: [items, dim] unit float32.
        k: At least 1.
    """
    items = len(vectors)
    rows, _ = ExactEngine(vectors).search(vectors, min(k + 1, items))
    # An item is among its own neighbours, unless as many others have the same texts.
    is_own = rows == np.arange(items)[:, None]
    is_own[~is_own.any(axis=1), -1] = True
    others: Ints = rows[~is_own].reshape(items, -1)
    return others


def neighbour_share(nearest: Ints, share: Floats) -> Floats:
    """[items] the share of pairs that have one of the items which an item is a neighbour of, at most (a union bound).

    Args:
        nearest: [items, k].
        share: [items] share of the pairs' items that each is.
    """
    return np.bincount(nearest.ravel(), np.repeat(share, nearest.shape[1]), len(share)).astype(np.float64)
