"""Sparse vectors over the rows of a catalogue."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np

from recserve_server_ext.common.arrays import Floats, Ints, Mask, Rows
from recserve_server_ext.index.engines.exact import floor

#: Sorted values that are looked at for the n best usable ones: this many times n, at least so many, and then more.
_TIMES: Final = 4
_AT_LEAST: Final = 256


class SparseVector(NamedTuple):
    """Values of some rows of a catalogue; all other rows have 0.

    Attributes:
        rows: Rows with a value, ascending.
        values: Their values.
        order: Positions of the values that are not 0, greatest first; `None` where they are not sorted yet.
    """

    rows: Rows
    values: Floats
    order: Ints | None = None

    def at(self, rows: Rows) -> Floats:
        """Values of any rows."""
        if not len(self.rows):
            return np.zeros(len(rows))
        positions = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        return np.where(self.rows[positions] == rows, self.values[positions], 0.0)

    def best(self, n: int, usable: Mask) -> Rows:
        """The n usable rows with the greatest values, best first; ties by row."""
        if self.order is not None:
            width = max(_TIMES * n, _AT_LEAST)
            while True:
                rows: Rows = self.rows[self.order[:width]]
                found = rows[usable[rows]][:n]
                if len(found) >= n or width >= len(self.order):
                    return np.asarray(found)
                width *= _TIMES
        return best_rows(self.rows, self.values, n, usable)

    def sorted(self) -> SparseVector:
        """The same vector with its `order`."""
        order: Ints = np.argsort(-self.values, kind="stable")
        return self._replace(order=order[: int(np.count_nonzero(self.values))])

    def std(self, items: int) -> float:
        """Standard deviation over a catalogue of this many items."""
        return std_of(self.values, items)


def std_of(values: Floats, items: int) -> float:
    """Standard deviation over a catalogue of this many items, of which all others have 0."""
    mean = float(values.sum()) / max(items, 1)
    return math.sqrt(max(float(values @ values) / max(items, 1) - mean**2, 0.0))


def best_rows(rows: Rows, values: Floats, n: int, usable: Mask | None = None, spare: int = 0) -> Rows:
    """The n usable rows with the greatest values, best first; ties by row.

    Args:
        rows: Distinct rows, ascending.
        values: Their values.
        n: Rows that are wanted.
        usable: [catalogue rows] which rows may be taken; `None` for all.
        spare: Rows that may turn out not to be usable; with more of them the values are looked at again.
    """
    width = max(n + spare, 1)
    while True:
        found, own = rows, values
        if is_part := len(values) > width:
            # Only the greatest and few more are looked at, with all that are tied with the last of them.
            kept = np.flatnonzero(values >= floor(values[:, None], width))
            found, own = rows[kept], values[kept]
        if usable is not None:
            is_usable = usable[found]
            found, own = found[is_usable], own[is_usable]
        if len(found) >= n or not is_part:
            return np.asarray(found[np.argsort(-own, kind="stable")[:n]])
        width *= _TIMES


def greatest(values: Floats, n: int) -> Ints:
    """Positions of the n greatest values, the greatest first; ties by position."""
    if not len(values) > 2 * n > 0:
        return np.argsort(-values, kind="stable")[:n]
    # Only the greatest are sorted, with all that are tied with the last of them.
    kept = np.flatnonzero(values >= np.partition(values, len(values) - n)[len(values) - n])
    return np.asarray(kept[np.argsort(-values[kept], kind="stable")[:n]])
