"""Counts of the interaction log by catalogue row: popularity, item-to-item neighbours and clicks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from recserve_server_ext.common.arrays import Floats, Ints, Rows
from recserve_server_ext.counts.popularity import PopularityCounts, PopularWindow
from recserve_server_ext.strategies.parts.sparse import SparseVector

if TYPE_CHECKING:
    from recserve_server_ext.catalogue.view import View
    from recserve_server_ext.counts.counts import Counts

#: Popularity rankings that are cached, by context and window.
_RANKINGS: Final = 64


class PopularRows:
    """Popularity within a time window, by catalogue row.

    Attributes:
        rows: [counted items] rows of the counted items, ascending.
        items: Number of rows of the catalogue.
        age_s: [counted items] seconds since the first interaction with each; 0 without one.
    """

    def __init__(self, counts: PopularityCounts, window: PopularWindow, view: View) -> None:
        rows = view.row_of.rows(counts.items)
        order = np.argsort(rows, kind="stable")
        order = order[rows[order] >= 0]
        self.rows: Rows = rows[order]
        self.items = len(view.available)
        self._values = {
            by: SparseVector(self.rows, values[order]).sorted()
            for by, values in (("users", counts.shares(window)), ("recent", np.log1p(counts.recent_in(window))))
        }
        self.age_s: Floats = counts.age_s[order]
        self._by_row: dict[str, Floats] = {}
        self._stds: dict[str, float] = {}
        users, windows = counts.facts(window)
        self._users: list[int] = users[order].tolist()
        self._windows = [windows[place] for place in order.tolist()]

    def values(self, by: str) -> SparseVector:
        """Share of the active users that had each item (`users`), or ln(1 + recent interactions) (`recent`)."""
        return self._values[by]

    def at(self, by: str, rows: Rows) -> Floats:
        """These values of any rows."""
        if by not in self._by_row:
            self._by_row[by] = np.zeros(self.items)
            self._by_row[by][self.rows] = self._values[by].values
        return np.asarray(self._by_row[by][rows])

    def std(self, by: str) -> float:
        """Standard deviation of these values over the catalogue; 0 when all are equal."""
        if by not in self._stds:
            self._stds[by] = self._values[by].std(self.items)
        return self._stds[by]

    def facts(self, row: int) -> tuple[int, float | None]:
        """Users of a row, and the window they are counted in, in seconds; `None` for the whole log."""
        place = int(np.searchsorted(self.rows, row))
        return self._users[place], self._windows[place]


class PopularShares:
    """Several columns of popularity, as shares of the most popular item."""

    def __init__(self, rankings: Sequence[tuple[PopularRows, str]]) -> None:
        """
        Args:
            rankings: Rankings of the same counts, and by what each counts.
        """
        first = rankings[0][0]
        values = [ranking.values(by).values for ranking, by in rankings]
        self._place_of = np.full(first.items, len(first.rows), np.int64)
        self._place_of[first.rows] = np.arange(len(first.rows))
        shares = np.column_stack([of / (float(of.max(initial=0.0)) or 1.0) for of in values])
        self._shares = np.vstack([shares, np.zeros(len(values))])

    def of(self, rows: Rows) -> Floats:
        """[rows, columns] the shares of some rows; 0 for items that are not counted."""
        return np.asarray(self._shares[self._place_of[rows]])


class CountsView:
    """Counts by the rows of a catalogue view; rebuilt when either changes."""

    def __init__(self, counts: Counts, view: View) -> None:
        self.counts = counts
        self.view = view
        self._rankings: dict[tuple[int, PopularWindow], PopularRows] = {}
        self._shares: dict[int, PopularShares] = {}

    def popular(self, context: Mapping[str, str], window: PopularWindow = "mixed") -> PopularRows:
        """Popularity in a context, within a window."""
        counts = self.counts.popularity_in(context)
        key = (id(counts), window)
        ranking = self._rankings.get(key)
        if ranking is None:
            if len(self._rankings) >= _RANKINGS:
                self._rankings.clear()
            ranking = self._rankings[key] = PopularRows(counts, window, self.view)
        return ranking

    def popular_shares(self, context: Mapping[str, str], columns: Sequence[tuple[str, PopularWindow]]) -> PopularShares:
        """Popularity in a context by several measures and windows; always of the same columns."""
        key = id(self.counts.popularity_in(context))
        if key not in self._shares:
            if len(self._shares) >= _RANKINGS:
                self._shares.clear()
            self._shares[key] = PopularShares([(self.popular(context, window), by) for by, window in columns])
        return self._shares[key]

    @cached_property
    def age_s(self) -> Floats:
        """[rows] seconds since the first interaction with each item; 0 without one."""
        ages, popular = np.zeros(len(self.view.available)), self.popular({}, "all")
        ages[popular.rows] = popular.age_s
        return ages

    @cached_property
    def place_of(self) -> Ints:
        """[rows] position among the items with neighbour counts; -1 for items without."""
        places = np.full(len(self.view.available), -1, np.int64)
        known = self._rows >= 0
        places[self._rows[known]] = np.flatnonzero(known)
        return places

    @cached_property
    def nearest(self) -> Ints:
        """[counted items, n] rows of the neighbours; -1 for padding and items that left the catalogue."""
        places = self.counts.neighbours.nearest
        return np.where(places >= 0, self._rows[places], -1) if len(self._rows) else places.astype(np.int64)

    @property
    def similarity(self) -> NDArray[np.float32]:
        """[counted items, n] similarity of the neighbours."""
        return self.counts.neighbours.similarity

    def click_posterior(self, rows: Ints) -> tuple[Floats, Floats]:
        """[rows], [rows] parameters alpha and beta of the Beta posterior of each item's click rate."""
        shown, clicked = self._shown[rows], self._clicked[rows]
        prior = self.counts.clicks.prior
        return prior.clicks + clicked.astype(np.float64), prior.others + (shown - clicked).astype(np.float64)

    @cached_property
    def _shown(self) -> Ints:
        return self._by_row(self.counts.clicks.shown)

    @cached_property
    def _clicked(self) -> Ints:
        return self._by_row(self.counts.clicks.clicked)

    def _by_row(self, counts: Ints) -> Ints:
        """[rows] counts of impressions or clicks; 0 for items that were never recommended."""
        rows = self.view.row_of.rows(self.counts.clicks.items)
        by_row = np.zeros(len(self.view.available), np.int64)
        by_row[rows[rows >= 0]] = counts[rows >= 0]
        return by_row

    @cached_property
    def _rows(self) -> Ints:
        return self.view.row_of.rows(self.counts.items)
