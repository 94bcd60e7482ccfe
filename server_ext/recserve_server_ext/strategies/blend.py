"""The parts of a score besides text, and how the strategies put them together, for one interest of a user at a time."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from recserve_server_ext.common.arrays import Floats, Ints, Mask, Rows
from recserve_server_ext.config.blend import BlendRules
from recserve_server_ext.strategies.counts_view import CountsView, PopularRows, spread_of

#: Behaviours of a history whose neighbours count: the heaviest. The rest weighs next to nothing.
_HEAVIEST: Final = 64


class Sparse(NamedTuple):
    """Values of some rows; all others have 0.

    Attributes:
        rows: Ascending.
        values: Of them.
        order: Their places, the greatest values first; none = not known.
    """

    rows: Rows
    values: Floats
    order: Ints | None = None

    def at(self, rows: Rows) -> Floats:
        """The values of any rows."""
        if not len(self.rows):
            return np.zeros(len(rows))
        places = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        return np.where(self.rows[places] == rows, self.values[places], 0.0)

    def best(self, n: int, usable: Mask) -> Rows:
        """At most n of the rows that may be used, the greatest values first; equal ones by row."""
        if self.order is not None:
            rows: Rows = self.rows[self.order]
            return np.asarray(rows[usable[rows]][:n])
        mask = usable[self.rows]
        order = np.argsort(-self.values[mask], kind="stable")
        return np.asarray(self.rows[mask][order[:n]])


NOTHING: Final = Sparse(np.empty(0, np.int64), np.empty(0))


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


class Mixture(NamedTuple):
    """What the parts of a score are multiplied by.

    Attributes:
        text: cos(u, v).
        counts: sum_j w_j s(j, i).
        popularity: ln(1 + recent interactions).
    """

    text: float
    counts: float
    popularity: float


TEXT: Final = Mixture(1.0, 0.0, 0.0)


def mixture(
    rules: BlendRules,
    behaviours: int,
    idle_s: float,
    text_spread: float,
    counted: Sparse,
    popular: PopularRows,
    items: int,
) -> Mixture:
    """See `BlendRules`.

    Args:
        rules: The shares.
        behaviours: Of the user; 0 = all is popularity.
        idle_s: Since the newest of them.
        text_spread: Standard deviation of the user's text scores.
        counted: The item-to-item part.
        popular: What is popular.
        items: Of the catalogue.
    """
    fresh = behaviours * 2.0 ** (-idle_s / rules.stale_half_life_s)
    # A prior of 0 leaves popularity out, however long ago the user was here.
    of_popularity = rules.prior and rules.prior / (rules.prior + fresh) if behaviours else 1.0
    counts_spread = spread_of(counted.values, items)
    of_text = rules.text if counts_spread > 0 else 1.0
    own = 1.0 - of_popularity
    return Mixture(
        own * of_text / text_spread if text_spread > 0 else 0.0,
        own * (1.0 - of_text) / counts_spread if counts_spread > 0 else 0.0,
        of_popularity / popular.spread if popular.spread > 0 else 0.0,
    )
