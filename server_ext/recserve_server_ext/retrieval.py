"""User vectors -> the best allowed items: search wider than asked, drop what is not allowed, never return too few."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recserve_server_ext.engine import Engine

Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]


class Wanted(NamedTuple):
    """What one user wants.

    Attributes:
        k: Number of items.
        banned: Rows that must not be among them.
        ef: Width of the search; none = the index's own.
    """

    k: int
    banned: Rows
    ef: int | None


class Retrieval:
    """Searches one snapshot's vectors for a batch of users with different wants."""

    def __init__(self, engine: Engine, exact: Engine, available: NDArray[np.bool_]) -> None:
        self._engine = engine
        self._exact = exact
        self._available = available
        self._hidden = int(len(available) - np.count_nonzero(available))

    def search(self, users: Vectors, wanted: list[Wanted]) -> list[Rows]:
        """Rows of the best allowed items of each user, best first.

        A user gets k rows whenever k items are allowed: where the engine's neighbours leave fewer, the exact engine
        searches again, wide enough for all that was dropped.

        Args:
            users: [users, dim] unit vectors.
            wanted: One for each user.
        """
        found: list[Rows] = [np.empty(0, np.int64)] * len(wanted)
        groups: dict[tuple[int, int | None], list[int]] = defaultdict(list)
        for number, want in enumerate(wanted):
            groups[_width(want.k + len(want.banned)), want.ef].append(number)
        for (width, ef), numbers in groups.items():
            queries = users if len(numbers) == len(wanted) else users[numbers]
            rows, _ = self._engine.search(queries, width, ef=ef)
            for number, kept in zip(numbers, self._allowed(rows, [wanted[n] for n in numbers]), strict=True):
                found[number] = kept
        for number, want in enumerate(wanted):
            if len(found[number]) < want.k and len(found[number]) < self._at_most(want):
                found[number] = self._search_exactly(users[number], want)
        return found

    def _at_most(self, want: Wanted) -> int:
        """A bound from above on the number of items that are allowed."""
        return len(self._available) - max(self._hidden, len(np.unique(want.banned)))

    def _search_exactly(self, user: Vectors, want: Wanted) -> Rows:
        width = min(len(self._available), want.k + len(want.banned) + self._hidden)
        rows, _ = self._exact.search(user[None], width)
        return self._allowed(rows, [want])[0]

    def _allowed(self, rows: Rows, wanted: list[Wanted]) -> list[Rows]:
        """Of each user's rows [users, width], the first k that are allowed."""
        allowed = rows >= 0
        if self._hidden:
            allowed &= self._available[rows]
        marked = np.zeros(len(self._available), np.bool_)
        kept = []
        for row, fit, want in zip(rows, allowed, wanted, strict=True):
            if len(want.banned):
                marked[want.banned] = True
                fit &= ~marked[row]
                marked[want.banned] = False
            kept.append(row[fit][: want.k])
        return kept


def _width(needed: int) -> int:
    """Widths in steps of an eighth of their size, so that users with nearly equal wants share one search."""
    step = max(8, 1 << max(0, needed.bit_length() - 3))
    return -(-needed // step) * step
