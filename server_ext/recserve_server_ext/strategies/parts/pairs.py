"""Strategies that score by pairs of a behaviour and another item: item-to-item neighbours and transitions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Final, NamedTuple

import numpy as np
from msgspec import Meta

from recserve_client.contract import ErrorKind, RequestError
from recserve_server_ext.catalogue.view import MatrixView
from recserve_server_ext.common.arrays import Floats, Ints, Rows
from recserve_server_ext.strategies.base import Candidates, Explanation, Options, Parts, Query, Strategy
from recserve_server_ext.strategies.parts.sparse import SparseVector

#: Behaviours whose pairs are scored: the heaviest of a history. The rest hardly changes a score.
_HEAVIEST: Final = 64


class Pairs(NamedTuple):
    """Pairs of a behaviour and another item.

    Attributes:
        behaviour: [pairs] position j in the history.
        row: [pairs] row of the other item i.
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

    @abstractmethod
    def pairs(self, query: Query, behaviours: Ints, weights: Floats) -> Pairs:
        """The pairs of a profile.

        Args:
            query: The query.
            behaviours: Positions of the items in the history that count.
            weights: Their recency weights.
        """

    def cold(self, queries: Sequence[Query]) -> list[RequestError | None]:
        """Refuses profiles whose items have no pair."""
        reason = RequestError(
            ErrorKind.EMPTY_HISTORY, "no item of the user's history has neighbours in the interaction log"
        )
        return [None if len(self._scored(query).pairs.row) else reason for query in queries]

    def candidates(self, queries: Sequence[Query], n: Sequence[int]) -> list[Rows]:
        """The items with the highest scores."""
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

    def _scored(self, query: Query) -> _Scored:
        scored: _Scored | None = query.kept.get(self)
        if scored is None:
            weights = query.profile.recency_weights(query.options.half_life)
            known = np.flatnonzero((query.profile.rows >= 0) & (weights != 0))
            known = known[np.argsort(-np.abs(weights[known]), kind="stable")[:_HEAVIEST]]
            pairs = self.pairs(query, known, weights[known])
            scored = query.kept[self] = _Scored(pairs, pairs.summed())
        return scored


class _Scored(NamedTuple):
    pairs: Pairs
    scores: SparseVector


def matrix_pairs(matrix: MatrixView, query: Query, behaviours: Ints, weights: Floats) -> Pairs:
    """The pairs of a profile by an item-to-item matrix; for the arguments see `PairStrategy.pairs`."""
    entries = matrix.entries(query.profile.rows[behaviours])
    return Pairs(behaviours[entries.place], entries.column, weights[entries.place] * entries.weight)
