"""User vectors -> the best allowed items: search wider than asked, drop what is not allowed, never return too few."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recserve_server_ext.catalogue_view import Delta, View
from recserve_server_ext.engine import Rows, Scores, Vectors


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


def search(view: View, users: Vectors, wanted: Sequence[Wanted]) -> list[Rows]:
    """Rows of the best allowed items of each user, best first.

    A user gets k rows whenever k items are allowed: where the engine's neighbours leave fewer, the exact engine
    searches again, wide enough for all that was dropped. What changed after the snapshot is always searched exactly.

    Args:
        view: The catalogue.
        users: [users, dim] unit vectors.
        wanted: One for each user.
    """
    found: list[Rows] = [np.empty(0, np.int64)] * len(wanted)
    groups: dict[tuple[int, int | None], list[int]] = defaultdict(list)
    for number, want in enumerate(wanted):
        groups[_width(view, want), want.ef].append(number)
    for (width, ef), numbers in groups.items():
        queries = users if len(numbers) == len(wanted) else users[numbers]
        rows, scores = view.snapshot.engine.search(queries, width, ef=ef)
        kept = _best(view, queries, rows, scores, [wanted[number] for number in numbers])
        for number, best in zip(numbers, kept, strict=True):
            found[number] = best
    for number, want in enumerate(wanted):
        if len(found[number]) < want.k and len(found[number]) < _at_most(view, want):
            found[number] = _search_exactly(view, users[number], want)
    return found


def _at_most(view: View, want: Wanted) -> int:
    """A bound from above on the number of items that are allowed."""
    return len(view.available) - max(view.unavailable, len(np.unique(want.banned)))


def _search_exactly(view: View, user: Vectors, want: Wanted) -> Rows:
    width = min(len(view.snapshot.ids), want.k + len(want.banned) + view.hidden)
    rows, scores = view.snapshot.exact.search(user[None], width)
    return _best(view, user[None], rows, scores, [want])[0]


def _best(view: View, users: Vectors, rows: Rows, scores: Scores, wanted: Sequence[Wanted]) -> list[Rows]:
    """Of each user's rows [users, width] with their scores, and of all that changed, the best k that are allowed."""
    if view.delta is not None and view.delta.count:
        rows, scores = _with_delta(view, view.delta, users, rows, scores)
    allowed = rows >= 0
    if view.unavailable:
        allowed &= view.available[rows]
    marked = np.zeros(len(view.available), np.bool_)
    kept = []
    for row, fit, want in zip(rows, allowed, wanted, strict=True):
        if len(want.banned):
            marked[want.banned] = True
            fit &= ~marked[row]
            marked[want.banned] = False
        kept.append(row[fit][: want.k])
    return kept


def _with_delta(view: View, delta: Delta, users: Vectors, rows: Rows, scores: Scores) -> tuple[Rows, Scores]:
    """What the engine found [users, width] merged with as many of the best rows of the delta, best first."""
    first = len(view.snapshot.ids)
    of_delta = users @ delta.vectors.T
    of_delta[:, ~view.available[first:]] = -np.inf
    changed = np.broadcast_to(np.arange(delta.count), of_delta.shape)
    if delta.count > rows.shape[1]:
        changed = np.argpartition(-of_delta, rows.shape[1] - 1, axis=1)[:, : rows.shape[1]]
        of_delta = np.take_along_axis(of_delta, changed, axis=1)
    all_rows = np.concatenate([rows, first + changed], axis=1)
    all_scores = np.concatenate([np.where(rows >= 0, scores, -np.inf), of_delta], axis=1)
    order = np.argsort(-all_scores, axis=1, kind="stable")
    return np.take_along_axis(all_rows, order, axis=1), np.take_along_axis(all_scores, order, axis=1)


def _width(view: View, want: Wanted) -> int:
    """How many neighbours to ask for, so that enough remain when those that are not allowed are dropped.

    In steps of an eighth of their size, so that users with nearly equal wants share one search.
    """
    needed = want.k + len(want.banned)
    if view.hidden:
        items = len(view.snapshot.ids)
        needed = min(items, -(-needed * items // max(1, items - view.hidden)))
    step = max(8, 1 << max(0, needed.bit_length() - 3))
    return -(-needed // step) * step
