"""The strategy `item_knn`: item-to-item collaborative filtering, weighted by the recency of the user's behaviours.

F. Aiolli, "Efficient top-N recommendation for very large scale binary rated datasets", RecSys 2013.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recserve_server_ext.common.arrays import Rows
from recserve_server_ext.index.matrix import Entries
from recserve_server_ext.strategies.base import Data
from recserve_server_ext.strategies.parts.counts_view import CountsView
from recserve_server_ext.strategies.parts.pairs import PairStrategy

#: Name of the neighbours over the whole log, where they were trained.
TRAINED = "item_knn"


class ItemKnn(PairStrategy):
    """score(i) = sum_j w_j s(j, i): s the similarity of items by common users, w_j the recency weight of j.

    An item has the neighbours of the training over the whole log. Without a training, or where the item came after it,
    it has those counted from the newest part of the log while serving.
    """

    counts = frozenset({"neighbours"})

    def trainings(self, options: Any) -> frozenset[str]:
        """The neighbours over the whole log."""
        return frozenset({TRAINED})

    def pairs(self, data: Data, rows: Rows) -> Entries:
        """The neighbours of the items."""
        if TRAINED not in data.view.snapshot.matrices:
            return counted_neighbours(data.counts, rows)
        matrix = data.view.matrix(TRAINED)
        untrained = np.flatnonzero(~matrix.has_entries(rows))
        found = matrix.entries(rows)
        if not len(untrained):
            return found
        counted = counted_neighbours(data.counts, rows[untrained])
        if not len(counted.place):
            return found
        place = np.concatenate([found.place, untrained[counted.place]])
        order = np.argsort(place, kind="stable")
        column = np.concatenate([found.column, counted.column])
        return Entries(place[order], column[order], np.concatenate([found.weight, counted.weight])[order])


def counted_neighbours(counts: CountsView, rows: Rows) -> Entries:
    """The neighbours of items by the counts of the log; none for items that are not counted."""
    places = counts.place_of[rows]
    counted = np.flatnonzero(places >= 0)
    nearest, similarity = counts.nearest[places[counted]], counts.similarity[places[counted]]
    exists = nearest >= 0
    return Entries(np.repeat(counted, exists.sum(axis=1)), nearest[exists], similarity[exists])
