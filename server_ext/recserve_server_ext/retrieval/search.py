"""User vectors -> the best allowed items: search wider than asked, drop what is not allowed, never return too few."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recserve_server_ext.attributes.view import Allowed
from recserve_server_ext.catalogue.view import Delta, View
from recserve_server_ext.common.arrays import Rows, Scores, Vectors
from recserve_server_ext.index.engines.engine import RemoteEngine
from recserve_server_ext.index.engines.exact import search_among

#: A filter that leaves at most this share of the snapshot, or so few items, is answered by scoring all that match;
#: a wider one by searching wider and dropping. Measured: docs/decisions/007-filters.md.
_EXACT_SHARE = 0.2
_EXACT_ITEMS = 2000
#: Times as wide as an even spread of the matching items needs: fewer users get too few and are searched again.
_MARGIN = 2
#: Power of 1 / share by which `ef` of a graph grows where matching items are a share; `scan` widens by itself.
_EF_GROWTH = 0.5


class Wanted(NamedTuple):
    """What one user wants.

    Attributes:
        k: Number of items.
        banned: Rows that must not be among them.
        ef: Width of the search; none = the index's own.
        allowed: Items that match the filter; none = there is no filter. Users with the same object share a search.
    """

    k: int
    banned: Rows
    ef: int | None
    allowed: Allowed | None = None


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
    groups: dict[tuple[int, int | None, int], list[int]] = defaultdict(list)
    for number, want in enumerate(wanted):
        groups[search_width(view, want), _ef(view, want), id(want.allowed)].append(number)
    for (width, ef, _), numbers in groups.items():
        queries = users if len(numbers) == len(wanted) else users[numbers]
        allowed = wanted[numbers[0]].allowed
        rows, scores = _neighbours(view, queries, width, ef, allowed)
        kept = _best(view, queries, rows, scores, [wanted[number] for number in numbers])
        for number, best in zip(numbers, kept, strict=True):
            found[number] = best
        short = [number for number in numbers if _is_short(view, found[number], wanted[number])]
        if short:
            again = _search_exactly(view, users[short], [wanted[number] for number in short])
            for number, best in zip(short, again, strict=True):
                found[number] = best
    return found


def _neighbours(
    view: View, queries: Vectors, width: int, ef: int | None, allowed: Allowed | None
) -> tuple[Rows, Scores]:
    """The nearest rows of the snapshot, of those that match where the filter leaves few or the engine evaluates it."""
    engine = view.snapshot.engine
    if allowed is not None and _is_remote(view, allowed):
        assert isinstance(engine, RemoteEngine)
        return engine.search(queries, width, ef=ef, where=allowed.where)
    if allowed is not None and _is_selective(allowed):
        return search_among(view.snapshot.vectors, queries, allowed.rows, width)
    return engine.search(queries, width, ef=ef)


def _is_remote(view: View, allowed: Allowed) -> bool:
    """Whether the engine evaluates the filter itself."""
    return allowed.where is not None and isinstance(view.snapshot.engine, RemoteEngine)


def _is_short(view: View, found: Rows, want: Wanted) -> bool:
    return len(found) < want.k and len(found) < _at_most(view, want)


def _at_most(view: View, want: Wanted) -> int:
    """A bound from above on the number of items that are allowed."""
    if want.allowed is not None:
        return want.allowed.count - int(np.count_nonzero(want.allowed.mask[np.unique(want.banned)]))
    return len(view.available) - max(view.unavailable, len(np.unique(want.banned)))


def _is_selective(allowed: Allowed) -> bool:
    return len(allowed.rows) <= max(_EXACT_ITEMS, _EXACT_SHARE * allowed.items)


def _search_exactly(view: View, users: Vectors, wanted: Sequence[Wanted]) -> list[Rows]:
    """For users with the same filter."""
    exact, allowed = view.snapshot.exact, wanted[0].allowed
    needed = max(want.k + len(want.banned) for want in wanted)
    if allowed is not None:
        rows, scores = search_among(view.snapshot.vectors, users, allowed.rows, needed)
    else:
        rows, scores = exact.search(users, min(len(view.snapshot.ids), needed + view.hidden))
    return _best(view, users, rows, scores, wanted)


def _best(view: View, users: Vectors, rows: Rows, scores: Scores, wanted: Sequence[Wanted]) -> list[Rows]:
    """Of each user's rows [users, width] with their scores, and of all that changed, the best k that are allowed.

    All users have the same filter.
    """
    filtered = wanted[0].allowed if wanted else None
    usable = view.available if filtered is None else filtered.mask
    if view.delta is not None and view.delta.count:
        rows, scores = _with_delta(view, view.delta, users, rows, scores, usable)
    allowed = rows >= 0
    if view.unavailable or filtered is not None:
        allowed &= usable[rows]
    marked = np.zeros(len(view.available), np.bool_)
    kept = []
    for row, fit, want in zip(rows, allowed, wanted, strict=True):
        if len(want.banned):
            marked[want.banned] = True
            fit &= ~marked[row]
            marked[want.banned] = False
        kept.append(row[fit][: want.k])
    return kept


def _with_delta(
    view: View, delta: Delta, users: Vectors, rows: Rows, scores: Scores, usable: NDArray[np.bool_]
) -> tuple[Rows, Scores]:
    """What the engine found [users, width] merged with as many of the best rows of the delta, best first."""
    first = len(view.snapshot.ids)
    of_delta = users @ delta.vectors.T
    of_delta[:, ~usable[first:]] = -np.inf
    changed = np.broadcast_to(np.arange(delta.count), of_delta.shape)
    if delta.count > rows.shape[1]:
        changed = np.argpartition(-of_delta, rows.shape[1] - 1, axis=1)[:, : rows.shape[1]]
        of_delta = np.take_along_axis(of_delta, changed, axis=1)
    all_rows = np.concatenate([rows, first + changed], axis=1)
    all_scores = np.concatenate([np.where(rows >= 0, scores, -np.inf), of_delta], axis=1)
    order = np.argsort(-all_scores, axis=1, kind="stable")
    return np.take_along_axis(all_rows, order, axis=1), np.take_along_axis(all_scores, order, axis=1)


def _ef(view: View, want: Wanted) -> int | None:
    """The width of the search: what was asked for, the engine's own (none), or more where a filter drops items."""
    own = view.snapshot.manifest.engine.parameters.get("ef")
    allowed = want.allowed
    if want.ef is not None or allowed is None or own is None or _is_selective(allowed) or _is_remote(view, allowed):
        return want.ef
    return round(own * math.pow(allowed.items / len(allowed.rows), _EF_GROWTH))


def search_width(view: View, want: Wanted) -> int:
    """How many neighbours to ask for, so that enough remain when those that are not allowed are dropped.

    In steps of an eighth of their size, so that users with nearly equal wants share one search.
    """
    needed = want.k + len(want.banned)
    items = len(view.snapshot.ids)
    if want.allowed is not None:
        if not _is_selective(want.allowed) and not _is_remote(view, want.allowed):
            needed = min(items, _MARGIN * -(-needed * items // len(want.allowed.rows)))
    elif view.hidden:
        needed = min(items, -(-needed * items // max(1, items - view.hidden)))
    step = max(8, 1 << max(0, needed.bit_length() - 3))
    return -(-needed // step) * step
