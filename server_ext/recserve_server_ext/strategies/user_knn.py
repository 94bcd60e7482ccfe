"""The strategy `user_knn`: what the users most like this one turned to.

J. Herlocker, J. Konstan, A. Borchers and J. Riedl, "An algorithmic framework for performing collaborative filtering",
SIGIR 1999.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import numpy as np
from msgspec import Meta

from recserve_client.contract import ErrorKind, RequestError
from recserve_server_ext.common.arrays import Floats, Ints, Rows
from recserve_server_ext.index.model import Model
from recserve_server_ext.strategies.base import HEAVIEST, Candidates, Data, Explanation, Options, Parts, Query, Strategy
from recserve_server_ext.strategies.parts.scatter import Scatter, all_sums
from recserve_server_ext.strategies.parts.sparse import best_rows, std_of
from recserve_server_ext.strategies.parts.training_needed import not_trained

if TYPE_CHECKING:
    from recserve_server_ext.catalogue.view import View

NAME: Final = "user_knn"
#: Arrays of the model: [users + 1] and [entries] items of each user, [items + 1] and [entries] users of each item.
OFFSETS_BY_USER: Final = "offsets_by_user"
BY_USER: Final = "items_by_user"
OFFSETS_BY_ITEM: Final = "offsets_by_item"
BY_ITEM: Final = "users_by_item"
_NO_NEIGHBOUR: Final = RequestError(
    ErrorKind.EMPTY_HISTORY, "no user of the training had an item of the user's history"
)


class UserKnnOptions(Options, frozen=True):
    """Options of `user_knn`.

    Attributes:
        half_life: Number of the user's newer interactions after which a behaviour counts half as much.
        neighbours: Users whose items are recommended.
    """

    half_life: Annotated[float, Meta(gt=0, le=1e6)] = 4.0
    neighbours: Annotated[int, Meta(ge=1, le=2000)] = 50


class _Neighbours(NamedTuple):
    """The neighbours of a profile.

    Attributes:
        behaviours: [known] positions in the history of the items that neighbours were found by.
        items: [known] their places in the model.
        shares: [known] w_j / |w|.
        users: [n] the neighbours.
        rows: Distinct rows that they had, in no order.
        scores: Sum of the cosines of the neighbours that had each of these rows.
    """

    behaviours: Ints
    items: Ints
    shares: Floats
    users: Ints
    rows: Rows
    scores: Floats


class _Mapped(NamedTuple):
    """The items of a model as rows of a view, and the other way round; -1 for an item that the other lacks.

    Attributes:
        norms: [users] |x_v|.
    """

    view: View
    model: Model
    row_of: Rows
    item_of: Ints
    norms: Floats


class UserKnn(Strategy):
    """score(i) = sum_v cos(u, v) x_vi over the nearest users v, cos(u, v) = sum_j w_j x_vj / (|w| |x_v|).

    x_vi is 1 where user v had item i, and w_j the recency weight of behaviour j.
    """

    Options = UserKnnOptions
    per_request = frozenset({"half_life", "neighbours"})
    is_filled_up = True
    grid = tuple(
        {"half_life": half_life, "neighbours": neighbours}
        for half_life in (2.0, 4.0, 16.0)
        for neighbours in (20, 50, 200)
    )
    _mapping: _Mapped | None = None

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._scatter = Scatter()

    def trainings(self, options: Any) -> frozenset[str]:
        """Its model."""
        return frozenset({NAME})

    def lacking(self, data: Data, options: Any) -> RequestError | None:
        """Needs its model in the index."""
        return None if NAME in data.view.snapshot.models else not_trained(self.name, NAME)

    def cold(self, queries: Sequence[Query]) -> list[RequestError | None]:
        """Refuses profiles without a neighbour."""
        return [None if len(self._near(query).users) else _NO_NEIGHBOUR for query in queries]

    def candidates(self, queries: Sequence[Query], n: Sequence[int]) -> list[Rows]:
        """The items with the highest scores."""
        found = []
        for query, wanted in zip(queries, n, strict=True):
            near = self._near(query)
            found.append(best_rows(near.rows, near.scores, wanted, query.usable, len(query.spec.banned)))
        return found

    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates]) -> list[Parts]:
        """Scores of the candidates."""
        scatter, found = self._scatter.over(len(queries[0].data.view.available)), list[Parts]()
        for query, items in zip(queries, candidates, strict=True):
            near = self._near(query)
            found.append({self.name: scatter.at(near.rows, near.scores, items.rows)})
        return found

    def explain(self, queries: Sequence[Query], picks: Sequence[Candidates]) -> list[Explanation]:
        """What each behaviour adds to the cosines of the neighbours that had an item."""
        explained = []
        for query, items in zip(queries, picks, strict=True):
            near, mapped = self._near(query), self._mapped(query.data.view)
            contributions = np.zeros((len(items.rows), len(query.profile.rows)))
            had = _had(mapped.model, near.users, mapped.item_of[items.rows])
            known = _had(mapped.model, near.users, near.items) / mapped.norms[near.users][:, None]
            contributions[:, near.behaviours] = (had.T @ known) * near.shares
            explained.append(Explanation({self.name: contributions.sum(axis=1)}, contributions))
        return explained

    def std(self, queries: Sequence[Query]) -> Floats:
        """Standard deviation of the scores over the whole catalogue."""
        items = len(queries[0].data.view.available)
        return np.array([std_of(self._near(query).scores, items) for query in queries])

    def _near(self, query: Query) -> _Neighbours:
        """The neighbours of a profile, found once."""
        found: _Neighbours | None = query.kept.get(self)
        if found is None:
            mapped, options = self._mapped(query.data.view), query.options
            weights = query.profile.recency_weights(options.half_life)
            items = np.where(query.profile.rows >= 0, mapped.item_of[query.profile.rows], -1)
            behaviours = np.flatnonzero((items >= 0) & (weights > 0))
            behaviours = behaviours[np.argsort(-weights[behaviours], kind="stable")[:HEAVIEST]]
            shares = weights[behaviours] / (float(np.linalg.norm(weights[behaviours])) or 1.0)
            found = query.kept[self] = _neighbours(
                mapped, behaviours, items[behaviours], shares, options.neighbours, self._scatter
            )
        return found

    def _mapped(self, view: View) -> _Mapped:
        """The items of the model as rows of a view, looked up once for each."""
        model, found = view.snapshot.models[NAME], self._mapping
        if found is None or found.view is not view or found.model is not model:
            row_of = view.row_of.rows(model.ids)
            item_of = np.full(len(view.available), -1, np.int64)
            item_of[row_of[row_of >= 0]] = np.flatnonzero(row_of >= 0)
            norms = np.sqrt(np.maximum(np.diff(model.arrays[OFFSETS_BY_USER]), 1))
            found = self._mapping = _Mapped(view, model, row_of, item_of, norms)
        return found


def _neighbours(
    mapped: _Mapped, behaviours: Ints, items: Ints, shares: Floats, most: int, scatter: Scatter
) -> _Neighbours:
    """The nearest users, and the scores of their items."""
    arrays = mapped.model.arrays
    place, users = _entries(arrays[OFFSETS_BY_ITEM], arrays[BY_ITEM], items)
    users = _nearest(users, shares[place], mapped.norms, most, scatter)
    place, had = _entries(arrays[OFFSETS_BY_USER], arrays[BY_USER], users)
    # Again from all items of the neighbours: an item of many users is looked up for some of them only.
    scatter.over(max(len(mapped.model.ids), len(mapped.item_of)))
    known, own = scatter.sums(items, shares)
    cosines = np.bincount(place, scatter.at(known, own, had), minlength=len(users)) / mapped.norms[users]
    rows = mapped.row_of[had]
    in_view = np.flatnonzero(rows >= 0)
    return _Neighbours(behaviours, items, shares, users, *scatter.sums(rows[in_view], cosines[place[in_view]]))


def _nearest(users: Ints, shares: Floats, norms: Floats, most: int, scatter: Scatter) -> Ints:
    """The users with the greatest cosines, given the share of each item that a user had; ties by number."""
    every = all_sums(users, shares, len(norms))
    if every is not None:
        nearest = best_rows(np.arange(len(norms)), every / norms, most)
        return np.asarray(nearest[every[nearest] > 0.0])
    distinct, sums = scatter.over(len(norms)).sums(users, shares)
    return best_rows(distinct, sums / norms[distinct], most)


def _entries(offsets: Ints, entries: Any, rows: Ints) -> tuple[Ints, Ints]:
    """The entries of some sparse rows, and the position of the row of each."""
    starts = offsets[rows]
    lengths = offsets[rows + 1] - starts
    place = np.repeat(np.arange(len(rows)), lengths)
    at = np.arange(len(place)) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return place, entries[at].astype(np.int64)


def _had(model: Model, users: Ints, items: Ints) -> Floats:
    """[users, items] 1 where a user had an item; 0 for item -1."""
    distinct, column = np.unique(items, return_inverse=True)
    found = np.zeros((len(users), len(distinct)))
    if len(distinct):
        place, had = _entries(model.arrays[OFFSETS_BY_USER], model.arrays[BY_USER], users)
        at = np.minimum(np.searchsorted(distinct, had), len(distinct) - 1)
        is_asked = distinct[at] == had
        found[place[is_asked], at[is_asked]] = 1.0
    taken: Floats = found[:, column]
    return taken
