"""The strategy `item_knn`: item-to-item collaborative filtering, weighted by the recency of the user's behaviours.

F. Aiolli, "Efficient top-N recommendation for very large scale binary rated datasets", RecSys 2013.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, NamedTuple

import numpy as np
from msgspec import Meta

from recserve_client.contract import ErrorKind, RequestError
from recserve_server_ext.common.arrays import Floats, Ints, Rows
from recserve_server_ext.strategies.base import Candidates, Explanation, Options, Parts, Query, Strategy
from recserve_server_ext.strategies.counts_view import CountsView
from recserve_server_ext.strategies.sparse import SparseVector

#: Behaviours whose neighbours are scored: the heaviest of a history. The rest hardly changes a score.
_HEAVIEST: Final = 64
_NO_NEIGHBOURS: Final = RequestError(
    ErrorKind.EMPTY_HISTORY, "no item of the user's history has neighbours in the interaction log"
)


class ItemKnnOptions(Options, frozen=True):
    """Options of `item_knn`.

    Attributes:
        half_life: Number of the user's newer interactions after which a behaviour counts half as much.
    """

    half_life: Annotated[float, Meta(gt=0, le=1e6)] = 2.0


class ItemKnn(Strategy):
    """score(i) = sum_j w_j s(j, i): s the similarity of items by common users, w_j the recency weight of j."""

    Options = ItemKnnOptions
    per_request = frozenset({"half_life"})
    counts = frozenset({"neighbours"})
    grid = tuple({"half_life": half_life} for half_life in (0.5, 1.0, 2.0, 4.0, 8.0, 1e6))

    def cold(self, queries: Sequence[Query]) -> list[RequestError | None]:
        """Refuses profiles whose items have no neighbours in the log."""
        return [None if len(self._scored(query).pairs.row) else _NO_NEIGHBOURS for query in queries]

    def candidates(self, queries: Sequence[Query], n: Sequence[int]) -> list[Rows]:
        """The neighbours with the highest scores."""
        return [self._scored(query).scores.best(wanted, query.usable) for query, wanted in zip(queries, n, strict=True)]

    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates]) -> list[Parts]:
        """Scores of the candidates."""
        return [
            {self.name: self._scored(query).scores.at(items.rows)}
            for query, items in zip(queries, candidates, strict=True)
        ]

    def explain(self, queries: Sequence[Query], picks: Sequence[Candidates]) -> list[Explanation]:
        """The term of each behaviour in the sum."""
        explained = []
        for query, items in zip(queries, picks, strict=True):
            contributions = self._scored(query).pairs.contributions(items.rows, len(query.profile.rows))
            explained.append(Explanation({self.name: contributions.sum(axis=1)}, contributions))
        return explained

    def std(self, queries: Sequence[Query]) -> Floats:
        """Standard deviation of the scores over the whole catalogue."""
        items = len(queries[0].data.view.available)
        return np.array([self._scored(query).scores.std(items) for query in queries])

    def _scored(self, query: Query) -> _ScoredNeighbours:
        scored: _ScoredNeighbours | None = query.kept.get(self)
        if scored is None:
            weights = query.profile.recency_weights(query.options.half_life)
            pairs = neighbour_pairs(query.data.counts, query.profile.rows, weights)
            scored = query.kept[self] = _ScoredNeighbours(pairs, pairs.summed())
        return scored


class NeighbourPairs(NamedTuple):
    """Pairs of a behaviour and a neighbour of its item.

    Attributes:
        behaviour: [pairs] position j in the history.
        row: [pairs] row of the neighbour i.
        value: [pairs] w_j s(j, i).
    """

    behaviour: Ints
    row: Rows
    value: Floats

    def summed(self) -> SparseVector:
        """sum_j w_j s(j, i) by row."""
        rows, inverse = np.unique(self.row, return_inverse=True)
        return SparseVector(rows, np.bincount(inverse, self.value, minlength=len(rows)).astype(np.float64))

    def contributions(self, rows: Rows, behaviours: int) -> Floats:
        """[rows, behaviours] what each behaviour adds to the score of each of some distinct rows."""
        contributions = np.zeros((len(rows), behaviours))
        order = np.argsort(rows, kind="stable")
        if len(rows):
            place = order[np.minimum(np.searchsorted(rows[order], self.row), len(rows) - 1)]
            is_asked = rows[place] == self.row
            np.add.at(contributions, (place[is_asked], self.behaviour[is_asked]), self.value[is_asked])
        return contributions


class _ScoredNeighbours(NamedTuple):
    pairs: NeighbourPairs
    scores: SparseVector


def neighbour_pairs(counts: CountsView, rows: Rows, weights: Floats) -> NeighbourPairs:
    """The neighbours of the items of a history.

    Args:
        counts: Counts of the log.
        rows: [behaviours] row of each item; -1 for a behaviour that is no item.
        weights: [behaviours] recency weights; behaviours of weight 0 are left out.
    """
    known = np.flatnonzero((rows >= 0) & (weights != 0))
    known = known[counts.place_of[rows[known]] >= 0]
    known = known[np.argsort(-np.abs(weights[known]), kind="stable")[:_HEAVIEST]]
    places = counts.place_of[rows[known]]
    nearest = counts.nearest[places]
    exists = nearest >= 0
    behaviour = np.repeat(known, exists.sum(axis=1))
    value = (weights[known][:, None] * counts.similarity[places])[exists]
    return NeighbourPairs(behaviour, nearest[exists], value.astype(np.float64))
