"""What was counted of the log, by the rows of a view of the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recserve_server_ext.catalogue.view import View
from recserve_server_ext.common.arrays import Floats, Ints, Rows
from recserve_server_ext.counts.counts import Counts
from recserve_server_ext.counts.popularity import PopularWindow, Ranking
from recserve_server_ext.strategies.sparse import Sparse, greatest, std_of

#: Rankings of contexts and windows that are kept by row.
_RANKINGS: Final = 64


class PopularRows:
    """A ranking by row, within a window.

    Attributes:
        rows: [items] ascending; the items that may be recommended.
    """

    def __init__(self, ranking: Ranking, window: PopularWindow, view: View) -> None:
        """
        Args:
            ranking: What was counted.
            window: Within which time.
            view: The catalogue.
        """
        rows = np.array([view.row_of.get(name, -1) for name in ranking.items], np.int64)
        order = np.argsort(rows, kind="stable")
        order = order[rows[order] >= 0]
        self.rows: Rows = rows[order]
        self._items = len(view.available)
        self._values: dict[str, Sparse] = {}
        self._stds: dict[str, float] = {}
        for by, values in (("users", ranking.shares(window)), ("recent", np.log1p(ranking.recent_in(window)))):
            self._values[by] = Sparse(self.rows, values[order], greatest(values[order]))
        users, windows = ranking.reasons(window)
        self._users: list[int] = users[order].tolist()
        self._windows = [windows[place] for place in order.tolist()]

    def values(self, by: str) -> Sparse:
        """The part of all active users that had each item (`users`), or ln(1 + recent interactions) (`recent`)."""
        return self._values[by]

    def std(self, by: str) -> float:
        """Standard deviation of these over the catalogue; 0 when everything is alike."""
        if by not in self._stds:
            self._stds[by] = std_of(self._values[by].values, self._items)
        return self._stds[by]

    def reason(self, row: int) -> tuple[int, float | None]:
        """Users of a row, and within how many seconds; `None` for all of the log."""
        place = int(np.searchsorted(self.rows, row))
        return self._users[place], self._windows[place]


class CountsView:
    """Counts over a view; made when either is new."""

    def __init__(self, counts: Counts, view: View) -> None:
        """
        Args:
            counts: Of the log.
            view: The catalogue.
        """
        self.counts = counts
        self.view = view
        self._rankings: dict[tuple[int, PopularWindow], PopularRows] = {}

    def popular(self, context: Mapping[str, str], window: PopularWindow = "mixed") -> PopularRows:
        """What is popular in a context, within a window."""
        ranking = self.counts.ranking(context)
        key = (id(ranking), window)
        found = self._rankings.get(key)
        if found is None:
            if len(self._rankings) >= _RANKINGS:
                self._rankings.clear()
            found = self._rankings[key] = PopularRows(ranking, window, self.view)
        return found

    @cached_property
    def place_of(self) -> Ints:
        """[rows] place among the items that were counted; -1 = not counted."""
        places = np.full(len(self.view.available), -1, np.int64)
        known = self._rows >= 0
        places[self._rows[known]] = np.flatnonzero(known)
        return places

    @cached_property
    def nearest(self) -> Ints:
        """[counted items, n] rows of the neighbours; -1 = none, or not in the catalogue."""
        places = self.counts.neighbours.nearest
        return np.where(places >= 0, self._rows[places], -1) if len(self._rows) else places.astype(np.int64)

    @property
    def similarity(self) -> NDArray[np.float32]:
        """[counted items, n] of the neighbours."""
        return self.counts.neighbours.similarity

    def beliefs(self, rows: Ints) -> tuple[Floats, Floats]:
        """[rows], [rows] the parameters of the Beta distribution of each one's rate of clicks."""
        shown, clicked = self._shown[rows], self._clicked[rows]
        prior = self.counts.clicks.prior
        return prior.clicks + clicked.astype(np.float64), prior.others + (shown - clicked).astype(np.float64)

    @cached_property
    def _shown(self) -> Ints:
        return self._by_row(self.counts.clicks.shown)

    @cached_property
    def _clicked(self) -> Ints:
        return self._by_row(self.counts.clicks.clicked)

    def _by_row(self, of_items: Ints) -> Ints:
        """[rows] what was counted of the items of answers; 0 = nothing."""
        rows = np.array([self.view.row_of.get(name, -1) for name in self.counts.clicks.items], np.int64)
        found = np.zeros(len(self.view.available), np.int64)
        found[rows[rows >= 0]] = of_items[rows >= 0]
        return found

    @cached_property
    def _rows(self) -> Ints:
        return np.array([self.view.row_of.get(name, -1) for name in self.counts.items], np.int64)
