"""Item-to-item neighbours: items with many common users. Pure NumPy."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recserve_server_ext.common.arrays import Floats, Ints

#: Pairs of items that are counted at once (16 MiB), unless one item alone has more.
_MAX_PAIRS: Final = 1 << 21


class Neighbours(NamedTuple):
    """The most similar items of each item, most similar first.

    Attributes:
        nearest: [items, n] int32 positions of items; -1 as padding.
        similarity: [items, n] float32; 0 as padding.
    """

    nearest: NDArray[np.int32]
    similarity: NDArray[np.float32]


def neighbours_of(user: Ints, item: Ints, items: int, *, shrink: float, most: int) -> Neighbours:
    """The most similar items j of each item i by s(i, j) = c_ij / (sqrt(c_i c_j) + shrink); c counts common users.

    F. Aiolli, "Efficient top-N recommendation for very large scale binary rated datasets", RecSys 2013; the shrinkage
    is that of R. Bell and Y. Koren. Ties are ordered by position.

    Args:
        user: [interactions] number of the user, from 0.
        item: [interactions] position of the item.
        items: Number of items.
        shrink: Users added to the denominator; not negative.
        most: Neighbours of an item at most.
    """
    width = min(most, max(items - 1, 0))
    neighbours = Neighbours(np.full((items, width), -1, np.int32), np.zeros((items, width), np.float32))
    if not len(user) or not width:
        return neighbours
    user_of, item_of = np.divmod(np.unique(user * items + item), items)
    lengths = np.bincount(user_of)
    starts = np.cumsum(lengths) - lengths
    counts = np.bincount(item_of, minlength=items)
    users_by_item = user_of[np.argsort(item_of, kind="stable")]
    bounds = np.concatenate([[0], np.cumsum(counts)])
    pairs = np.concatenate([[0], np.cumsum(lengths[users_by_item])])[bounds]
    roots = np.sqrt(counts)
    first = 0
    while first < items:
        end = max(first + 1, int(np.searchsorted(pairs, pairs[first] + _MAX_PAIRS, "right")) - 1)
        users = users_by_item[bounds[first] : bounds[end]]
        place = np.repeat(np.arange(first, end), counts[first:end])
        one, other, common = _common_users(place, lengths[users], starts[users], item_of, items)
        _enter(neighbours, one, other, common / np.maximum(roots[one] * roots[other] + shrink, 1e-9))
        first = end
    return neighbours


def _common_users(place: Ints, lengths: Ints, starts: Ints, item_of: Ints, items: int) -> tuple[Ints, Ints, Ints]:
    """Pairs of items with common users, and the number of these users.

    Args:
        place: [entries] position of an item; one entry for each of its users.
        lengths: [entries] number of items of that user.
        starts: [entries] where the user's items start in `item_of`.
        item_of: Items of all users, one user after the other.
        items: Number of items.
    """
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    others = item_of[np.repeat(starts, lengths) + within]
    keys, common = np.unique(np.repeat(place, lengths) * items + others, return_counts=True)
    one, other = np.divmod(keys, items)
    differ = one != other
    return one[differ], other[differ], common[differ]


def _enter(neighbours: Neighbours, one: Ints, other: Ints, similarity: Floats) -> None:
    """Enter the most similar pairs of some items."""
    order = np.lexsort([other, -similarity, one])
    one, other, similarity = one[order], other[order], similarity[order]
    is_first = np.append(True, one[1:] != one[:-1])[: len(one)]
    place = np.arange(len(one))
    rank = place - np.maximum.accumulate(np.where(is_first, place, 0))
    kept = rank < neighbours.nearest.shape[1]
    neighbours.nearest[one[kept], rank[kept]] = other[kept]
    neighbours.similarity[one[kept], rank[kept]] = similarity[kept]
