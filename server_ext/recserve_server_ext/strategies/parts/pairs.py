"""Strategies that score by pairs of a behaviour and another item: item-to-item neighbours and transitions."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated, Final, NamedTuple

import numpy as np
from msgspec import Meta

from recserve_client.contract import ErrorKind, RequestError
from recserve_server_ext.common.arrays import Floats, Ints, Rows
from recserve_server_ext.index.matrix import Entries
from recserve_server_ext.strategies.base import HEAVIEST, Candidates, Data, Explanation, Options, Parts, Query, Strategy
from recserve_server_ext.strategies.parts.scatter import Scatter
from recserve_server_ext.strategies.parts.sparse import best_rows, std_of

_NO_PAIR: Final = RequestError(
    ErrorKind.EMPTY_HISTORY, "no item of the user's history has neighbours in the interaction log"
)


class _Scored(NamedTuple):
    """The pairs of a profile and the scores that they make.

    Attributes:
        behaviours: Positions j in the history of the behaviours that count.
        place: [pairs] which of them j is, counted from `first`.
        first: What the first of them has as its place.
        row: [pairs] row of the other item i.
        value: [pairs] w_j s(j, i).
        rows: Distinct rows i, in no order.
        scores: sum_j w_j s(j, i) of these rows.
    """

    behaviours: Ints
    place: Ints
    first: int
    row: Rows
    value: Floats
    rows: Rows
    scores: Floats


class PairOptions(Options, frozen=True):
    """Options of strategies by pairs.

    Attributes:
        half_life: Number of the user's newer interactions after which a behaviour counts half as much.
    """

    half_life: Annotated[float, Meta(gt=0, le=1e6)] = 2.0


class PairStrategy(Strategy):
    """score(i) = sum_j w_j s(j, i): s is 0 for most pairs of items, w_j the recency weight of behaviour j."""

    Options = PairOptions
    per_request = frozenset({"half_life"})
    is_filled_up = True
    grid = tuple({"half_life": half_life} for half_life in (0.5, 1.0, 2.0, 4.0, 8.0, 1e6))

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._scatter = Scatter()

    @abstractmethod
    def pairs(self, data: Data, rows: Rows) -> Entries:
        """s(j, i) of the items of all behaviours of a batch, in the order of these rows."""

    def cold(self, queries: Sequence[Query]) -> list[RequestError | None]:
        """Refuses profiles whose items have no pair."""
        return [None if len(of.row) else _NO_PAIR for of in self._scored(queries)]

    def candidates(self, queries: Sequence[Query], n: Sequence[int]) -> list[Rows]:
        """The items with the highest scores."""
        scored = self._scored(queries)
        return [
            best_rows(of.rows, of.scores, wanted, query.usable, len(query.spec.banned))
            for of, query, wanted in zip(scored, queries, n, strict=True)
        ]

    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates]) -> list[Parts]:
        """Scores of the candidates."""
        scatter = self._scatter.over(len(queries[0].data.view.available))
        return [
            {self.name: scatter.at(of.rows, of.scores, items.rows)}
            for of, items in zip(self._scored(queries), candidates, strict=True)
        ]

    def explain(self, queries: Sequence[Query], picks: Sequence[Candidates]) -> list[Explanation]:
        """The term of each behaviour in the sum."""
        scatter = self._scatter.over(len(queries[0].data.view.available))
        explained = []
        for of, query, items in zip(self._scored(queries), queries, picks, strict=True):
            contributions = np.zeros((len(items.rows), len(query.profile.rows)))
            asked = scatter.among(items.rows, of.row)
            item = scatter.places(items.rows, of.row[asked])
            np.add.at(contributions, (item, of.behaviours[of.place[asked] - of.first]), of.value[asked])
            explained.append(Explanation({self.name: contributions.sum(axis=1)}, contributions))
        return explained

    def std(self, queries: Sequence[Query]) -> Floats:
        """Standard deviation of the scores over the whole catalogue."""
        items = len(queries[0].data.view.available)
        return np.array([std_of(of.scores, items) for of in self._scored(queries)])

    def _scored(self, queries: Sequence[Query]) -> list[_Scored]:
        """The scores of each query, computed once."""
        groups: dict[int, list[Query]] = defaultdict(list)
        for query in queries:
            if self not in query.kept:
                groups[id(query.data)].append(query)
        for group in groups.values():
            for query, scored in zip(group, self._new_scored(group), strict=True):
                query.kept[self] = scored
        return [query.kept[self] for query in queries]

    def _new_scored(self, queries: Sequence[Query]) -> list[_Scored]:
        """The scores of queries over the same data; all pairs are found together."""
        data, half_life = queries[0].data, queries[0].options.half_life
        lengths = [len(query.profile.rows) for query in queries]
        rows = np.concatenate([query.profile.rows for query in queries])
        weights = np.concatenate([query.profile.recency_weights(half_life) for query in queries])
        user = np.repeat(np.arange(len(queries)), lengths)
        position = np.concatenate([np.arange(length) for length in lengths])
        known = np.flatnonzero((rows >= 0) & (weights != 0))
        if max(lengths) > HEAVIEST:
            known = _heaviest(known, user, weights)
        place, column, weight = self.pairs(data, rows[known])
        values = weights[known][place] * weight
        firsts = np.searchsorted(user[known], np.arange(len(queries) + 1))
        behaviours, starts = position[known], np.searchsorted(place, firsts).tolist()
        scatter, scored = self._scatter.over(len(data.view.available)), []
        for first, last, start, end in zip(firsts.tolist(), firsts[1:].tolist(), starts, starts[1:], strict=False):
            row, value = column[start:end], values[start:end]
            sums = scatter.sums(row, value)
            scored.append(_Scored(behaviours[first:last], place[start:end], first, row, value, *sums))
        return scored


def _heaviest(known: Ints, user: Ints, weights: Floats) -> Ints:
    """The behaviours of these with the greatest weights of each user, by user."""
    order = known[np.lexsort([-np.abs(weights[known]), user[known]])]
    first = np.searchsorted(user[order], user[order])
    return np.asarray(order[np.arange(len(order)) - first < HEAVIEST])
