"""Values of a few rows of a catalogue."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from recserve_server_ext.common.arrays import Floats, Ints, Mask, Rows


class Sparse(NamedTuple):
    """Values of some rows; all others have 0.

    Attributes:
        rows: Ascending.
        values: Of them.
        order: Their places, the greatest values first; `None` when that was not worked out.
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


def std_of(values: Floats, items: int) -> float:
    """Standard deviation over a catalogue of so many items, those without a value having 0."""
    mean = values.sum() / max(items, 1)
    return float(np.sqrt(max((values**2).sum() / max(items, 1) - mean**2, 0.0)))


def greatest(values: Floats) -> Ints:
    """Places of the values that are not 0, the greatest first."""
    order: Ints = np.argsort(-values, kind="stable")
    return order[: int(np.count_nonzero(values))]
