"""Item-to-item counts: which items the users of an item also turned to. Pure NumPy."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recserve_server_ext.common.arrays import Floats, Ints

#: Pairs of items that are counted at once (16 MiB), unless the users of one item make more.
_AT_ONCE: Final = 1 << 21


class Neighbours(NamedTuple):
    """The items most like each item, the most like first.

    Attributes:
        nearest: [items, n] int32 places; -1 after the last of an item.
        similarity: [items, n] float32; 0 there.
    """

    nearest: NDArray[np.int32]
    similarity: NDArray[np.float32]


def neighbours_of(user: Ints, item: Ints, items: int, *, shrink: float, most: int) -> Neighbours:
    """s(i, j) = c_ij / (sqrt(c_i c_j) + shrink) of the most like items j of each i, c = users of both, j not i.

    F. Aiolli, "Efficient top-N recommendation for very large scale binary rated datasets", RecSys 2013, and R. Bell and
    Y. Koren for the shrinkage. Equally like items come by rising place.

    Args:
        user: [interactions] number of the user, from 0.
        item: [interactions] place of the item.
        items: How many there are.
        shrink: Not negative.
        most: Neighbours of an item.
    """
    width = min(most, max(items - 1, 0))
    found = Neighbours(np.full((items, width), -1, np.int32), np.zeros((items, width), np.float32))
    if not len(user) or not width:
        return found
    of_user, of_item = np.divmod(np.unique(user * items + item), items)
    lengths = np.bincount(of_user)
    starts = np.cumsum(lengths) - lengths
    counts = np.bincount(of_item, minlength=items)
    entry_user = of_user[np.argsort(of_item, kind="stable")]
    bounds = np.concatenate([[0], np.cumsum(counts)])
    pairs = np.concatenate([[0], np.cumsum(lengths[entry_user])])[bounds]
    roots = np.sqrt(counts)
    first = 0
    while first < items:
        end = max(first + 1, int(np.searchsorted(pairs, pairs[first] + _AT_ONCE, "right")) - 1)
        users = entry_user[bounds[first] : bounds[end]]
        place = np.repeat(np.arange(first, end), counts[first:end])
        one, other, both = _together(place, lengths[users], starts[users], of_item, items)
        _keep(found, one, other, both / np.maximum(roots[one] * roots[other] + shrink, 1e-9))
        first = end
    return found


def _together(place: Ints, lengths: Ints, starts: Ints, of_item: Ints, items: int) -> tuple[Ints, Ints, Ints]:
    """Two items and their common users, for every pair that has some.

    Args:
        place: [entries] an item.
        lengths: [entries] how many items a user of it has.
        starts: [entries] where these are.
        of_item: Items of all users, one user after the other.
        items: How many there are.
    """
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    others = of_item[np.repeat(starts, lengths) + within]
    keys, both = np.unique(np.repeat(place, lengths) * items + others, return_counts=True)
    one, other = np.divmod(keys, items)
    differ = one != other
    return one[differ], other[differ], both[differ]


def _keep(found: Neighbours, one: Ints, other: Ints, similarity: Floats) -> None:
    """Enter the most like of some items' pairs."""
    order = np.lexsort([other, -similarity, one])
    one, other, similarity = one[order], other[order], similarity[order]
    is_first = np.append(True, one[1:] != one[:-1])[: len(one)]
    place = np.arange(len(one))
    rank = place - np.maximum.accumulate(np.where(is_first, place, 0))
    kept = rank < found.nearest.shape[1]
    found.nearest[one[kept], rank[kept]] = other[kept]
    found.similarity[one[kept], rank[kept]] = similarity[kept]
