"""Sums and look-ups by catalogue row, in arrays as long as the catalogue that are left as they were."""

from __future__ import annotations

from typing import Final

import numpy as np

from recserve_server_ext.common.arrays import Floats, Ints, Rows

#: Rows of a catalogue for each value, up to which the sums of all rows take less time than finding the distinct ones.
_ROWS_OF_VALUE: Final = 8


def all_sums(rows: Rows, values: Floats, items: int) -> Floats | None:
    """[items] sum of the values of each row; `None` where it takes less time to find the distinct rows."""
    if items > _ROWS_OF_VALUE * len(rows):
        return None
    return np.asarray(np.bincount(rows, values, items), np.float64)


class Scatter:
    """Three arrays over the rows of a catalogue: their cost is that of what is written, not that of a sort.

    Not thread-safe; it grows with the catalogue.
    """

    def __init__(self) -> None:
        self._values = np.zeros(0)
        self._places = np.zeros(0, np.int64)
        self._marks = np.zeros(0, np.bool_)

    def over(self, items: int) -> Scatter:
        """Itself, for a catalogue of this many rows."""
        if len(self._values) < items:
            self._values = np.zeros(items)
            self._places = np.full(items, -1, np.int64)
            self._marks = np.zeros(items, np.bool_)
        return self

    def sums(self, rows: Rows, values: Floats) -> tuple[Rows, Floats]:
        """The distinct rows, ascending, and the sum of the values of each; rows with a sum of 0 may be left out."""
        every = all_sums(rows, values, len(self._values))
        if every is not None:
            distinct = np.flatnonzero(every != 0.0)
            return distinct, every[distinct]
        np.add.at(self._values, rows, values)
        order = np.arange(len(rows))
        self._places[rows] = order
        distinct = np.sort(rows[self._places[rows] == order])
        self._places[distinct] = -1
        sums = self._values[distinct]
        self._values[distinct] = 0.0
        return distinct, sums

    def firsts(self, rows: Rows) -> Ints:
        """Positions of the first occurrence of each row, ascending."""
        backwards = rows[::-1]
        order = np.arange(len(rows))
        self._places[backwards] = order[::-1]
        first = np.flatnonzero(self._places[rows] == order)
        self._places[rows] = -1
        return first

    def among(self, rows: Rows, wanted: Rows) -> Ints:
        """Positions of the wanted rows that are among some others, ascending."""
        self._marks[rows] = True
        found = np.flatnonzero(self._marks[wanted])
        self._marks[rows] = False
        return found

    def places(self, rows: Rows, wanted: Rows) -> Ints:
        """[wanted] position of each row among some distinct ones; -1 for others."""
        self._places[rows] = np.arange(len(rows))
        found: Ints = self._places[wanted]
        self._places[rows] = -1
        return found

    def at(self, rows: Rows, values: Floats, wanted: Rows) -> Floats:
        """[wanted] values of rows, given those of some distinct ones; 0 for others."""
        self._values[rows] = values
        found: Floats = self._values[wanted]
        self._values[rows] = 0.0
        return found
