"""What was counted of the log, by the rows of a view of the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recserve_client.contract import PopularWindow
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.common.arrays import Floats, Ints
from recserve_server_ext.counts.counts import Counts
from recserve_server_ext.counts.popularity import Ranking

#: Item vectors that the spread of text scores is measured on.
_SAMPLE: Final = 20_000
#: Rankings of contexts and windows that are kept by row.
_RANKINGS: Final = 64


class PopularRows:
    """A ranking by row, within a window.

    Attributes:
        rows: [items] ascending; the items that may be recommended.
        share: [items] of the active users.
        heat: [items] ln(1 + recent interactions).
        spread: Standard deviation of that over the catalogue; 0 = everything is alike.
        by_share: [items] places, the greatest shares first; by_heat: the same by recent interactions.
    """

    def __init__(self, ranking: Ranking, window: PopularWindow, view: View) -> None:
        rows = np.array([view.row_of.get(name, -1) for name in ranking.items], np.int64)
        order = np.argsort(rows, kind="stable")
        order = order[rows[order] >= 0]
        self.rows: Ints = rows[order]
        self.share: Floats = ranking.shares(window)[order]
        self.heat: Floats = np.log1p(ranking.heat(window)[order])
        self.spread = spread_of(self.heat, len(view.available))
        self.by_share: Ints = _greatest(self.share)
        self.by_heat: Ints = _greatest(self.heat)
        users, windows = ranking.reasons(window)
        self._users: list[int] = users[order].tolist()
        self._windows = [windows[place] for place in order.tolist()]

    def reason(self, row: int) -> tuple[int, float | None]:
        """Users of a row, and within how many seconds; none = in all of the log."""
        place = int(np.searchsorted(self.rows, row))
        return self._users[place], self._windows[place]


def _greatest(values: Floats) -> Ints:
    """Places of the values that are not 0, the greatest first."""
    order: Ints = np.argsort(-values, kind="stable")
    return order[: int(np.count_nonzero(values))]


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


class TextSpread:
    """How far the scores cos(u, v) of a user lie apart over a catalogue: sqrt(u C u), C the covariance of the items."""

    def __init__(self, view: View) -> None:
        """
        Args:
            view: The catalogue, of whose snapshot at most 20,000 evenly spaced items are taken.
        """
        self.snapshot = view.snapshot
        vectors = view.snapshot.vectors
        sample = np.asarray(vectors[:: -(-len(vectors) // _SAMPLE) or 1], np.float32)
        centred = sample - sample.mean(axis=0)
        self._covariance = centred.T @ centred / max(len(sample), 1)

    def of(self, users: NDArray[np.float32]) -> Floats:
        """[users] the standard deviation of each one's scores.

        Args:
            users: [users, dim] unit vectors.
        """
        variance = np.einsum("ud,ud->u", users @ self._covariance, users, dtype=np.float64)
        return np.asarray(np.sqrt(np.maximum(variance, 0.0)))


def spread_of(values: Floats, items: int) -> float:
    """Standard deviation over a catalogue of so many items, those without a value having 0."""
    mean = values.sum() / max(items, 1)
    return float(np.sqrt(max((values**2).sum() / max(items, 1) - mean**2, 0.0)))
