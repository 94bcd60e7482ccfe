"""The strategy `item_knn`: item-to-item collaborative filtering, weighted by the recency of the user's behaviours.

F. Aiolli, "Efficient top-N recommendation for very large scale binary rated datasets", RecSys 2013.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recserve_server_ext.common.arrays import Floats, Ints
from recserve_server_ext.strategies.base import Query
from recserve_server_ext.strategies.parts.counts_view import CountsView
from recserve_server_ext.strategies.parts.pairs import Pairs, PairStrategy, matrix_pairs

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

    def pairs(self, query: Query, behaviours: Ints, weights: Floats) -> Pairs:
        """The neighbours of the items of the history."""
        view, rows = query.data.view, query.profile.rows
        if TRAINED not in view.snapshot.matrices:
            return neighbour_pairs(query.data.counts, query, behaviours, weights)
        matrix = view.matrix(TRAINED)
        trained = matrix.has_entries(rows[behaviours])
        parts = (
            matrix_pairs(matrix, query, behaviours[trained], weights[trained]),
            neighbour_pairs(query.data.counts, query, behaviours[~trained], weights[~trained]),
        )
        return Pairs(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def neighbour_pairs(counts: CountsView, query: Query, behaviours: Ints, weights: Floats) -> Pairs:
    """The pairs of a profile by the counts of the log; for the arguments see `PairStrategy.pairs`."""
    places = counts.place_of[query.profile.rows[behaviours]]
    is_counted = places >= 0
    behaviours, weights, places = behaviours[is_counted], weights[is_counted], places[is_counted]
    nearest = counts.nearest[places]
    exists = nearest >= 0
    value = (weights[:, None] * counts.similarity[places])[exists]
    return Pairs(np.repeat(behaviours, exists.sum(axis=1)), nearest[exists], value.astype(np.float64))
