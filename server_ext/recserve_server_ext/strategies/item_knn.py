"""The strategy `item_knn`: what users of the user's items also turned to, weighted by how lately the user did.

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
from recserve_server_ext.strategies.sparse import Sparse, std_of

#: Behaviours of a history whose neighbours count: the heaviest. The rest weighs next to nothing.
_HEAVIEST: Final = 64


class ItemKnnOptions(Options, frozen=True):
    """Options of `item_knn`.

    Attributes:
        half_life: Newer interactions of the user after which one counts half as much.
    """

    half_life: Annotated[float, Meta(gt=0, le=1e6)] = 2.0


class ItemKnn(Strategy):
    """sum_j w_j s(j, i): s the similarity of two items by their common users, w_j how lately the user turned to j."""

    Options = ItemKnnOptions
    per_request = frozenset({"half_life"})
    counts = frozenset({"neighbours"})
    grid = tuple({"half_life": half_life} for half_life in (0.5, 1.0, 2.0, 4.0, 8.0, 1e6))

    def cold(self, queries: Sequence[Query]) -> list[RequestError | None]:
        """Those of whose items the log knows no neighbour."""
        return [None if len(self._known(query).pairs.row) else _no_neighbours() for query in queries]

    def candidates(self, queries: Sequence[Query], n: Sequence[int]) -> list[Rows]:
        """The neighbours of the greatest sums."""
        return [self._known(query).sums.best(most, query.usable) for query, most in zip(queries, n, strict=True)]

    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates]) -> list[Parts]:
        """The sums."""
        return [{self.name: self._known(query).sums.at(of.rows)} for query, of in zip(queries, candidates, strict=True)]

    def explain(self, queries: Sequence[Query], picks: Sequence[Candidates]) -> list[Explanation]:
        """The summand of each behaviour."""
        explained = []
        for query, of in zip(queries, picks, strict=True):
            shares = self._known(query).pairs.shares(of.rows, len(query.profile.rows))
            explained.append(Explanation({self.name: shares.sum(axis=1)}, shares))
        return explained

    def std(self, queries: Sequence[Query]) -> Floats:
        """Of the sums over all of the catalogue."""
        items = len(queries[0].data.view.available)
        return np.array([std_of(self._known(query).sums.values, items) for query in queries])

    def _known(self, query: Query) -> _Known:
        found: _Known | None = query.kept.get(self)
        if found is None:
            weights = query.profile.recency_weights(query.options.half_life)
            pairs = pairs_of(query.data.counts, query.profile.rows, weights)
            found = query.kept[self] = _Known(pairs, pairs.summed())
        return found


class Pairs(NamedTuple):
    """What each behaviour of a history gives to each of its neighbours.

    Attributes:
        behaviour: [pairs] place in the history.
        row: [pairs] of the neighbour.
        value: [pairs] w_j s(j, i).
    """

    behaviour: Ints
    row: Rows
    value: Floats

    def summed(self) -> Sparse:
        """sum_j w_j s(j, i) by row."""
        rows, inverse = np.unique(self.row, return_inverse=True)
        return Sparse(rows, np.bincount(inverse, self.value, minlength=len(rows)).astype(np.float64))

    def shares(self, rows: Rows, behaviours: int) -> Floats:
        """[rows, behaviours] what each behaviour gives to each of some rows, no row twice."""
        found = np.zeros((len(rows), behaviours))
        order = np.argsort(rows, kind="stable")
        if len(rows):
            place = order[np.minimum(np.searchsorted(rows[order], self.row), len(rows) - 1)]
            named = rows[place] == self.row
            np.add.at(found, (place[named], self.behaviour[named]), self.value[named])
        return found


class _Known(NamedTuple):
    pairs: Pairs
    sums: Sparse


def pairs_of(counts: CountsView, rows: Rows, weights: Floats) -> Pairs:
    """The neighbours of a history.

    Args:
        counts: Of the log.
        rows: [behaviours] of the items; -1 = none.
        weights: [behaviours]; those of 0 give nothing.
    """
    known = np.flatnonzero((rows >= 0) & (weights != 0))
    known = known[counts.place_of[rows[known]] >= 0]
    known = known[np.argsort(-np.abs(weights[known]), kind="stable")[:_HEAVIEST]]
    places = counts.place_of[rows[known]]
    nearest = counts.nearest[places]
    there = nearest >= 0
    behaviour = np.repeat(known, there.sum(axis=1))
    value = (weights[known][:, None] * counts.similarity[places])[there]
    return Pairs(behaviour, nearest[there], value.astype(np.float64))


def _no_neighbours() -> RequestError:
    return RequestError(ErrorKind.EMPTY_HISTORY, "the log knows no neighbour of the items that the user turned to")
