"""User vectors -> the best allowed items: search wider than asked, drop what is not allowed, never return too few."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recserve_server_ext.attributes.view import Allowed
from recserve_server_ext.catalogue.view import SpaceView
from recserve_server_ext.common.arrays import Floats, Mask, Rows, Scores, Vectors
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


class CandidateSpec(NamedTuple):
    """Which items one user may get, and how many are wanted.

    Attributes:
        n: Number of items.
        banned: Rows that must not be among them.
        ef: Width of the search; `None` takes the index's own.
        allowed: Items that match the filter; `None` without a filter. Users with the same object share a search.
        boosts: [rows] what is added to the score of every row; `None` adds nothing. Users with the same object share
            the work.
    """

    n: int
    banned: Rows
    ef: int | None = None
    allowed: Allowed | None = None
    boosts: Floats | None = None


def search(space: SpaceView, users: Vectors, specs: Sequence[CandidateSpec]) -> list[Rows]:
    """Rows of the best allowed items of each user by u.v, best first; boosts do not count here.

    A user gets n rows whenever n items are allowed: where the engine's neighbours leave fewer, the exact engine
    searches again, wide enough for all that was dropped. What changed after the snapshot is always searched exactly.

    Args:
        space: Where to search.
        users: [users, dim] unit vectors.
        specs: One for each user.
    """
    found: list[Rows] = [np.empty(0, np.int64)] * len(specs)
    groups: dict[tuple[int, int | None, int], list[int]] = defaultdict(list)
    for number, spec in enumerate(specs):
        groups[search_width(space, spec), _ef(space, spec), id(spec.allowed)].append(number)
    for (width, ef, _), numbers in groups.items():
        queries = users if len(numbers) == len(specs) else users[numbers]
        allowed = specs[numbers[0]].allowed
        rows, scores = _neighbours(space, queries, width, ef, allowed)
        kept = _best(space, queries, rows, scores, [specs[number] for number in numbers])
        for number, best in zip(numbers, kept, strict=True):
            found[number] = best
        short = [number for number in numbers if _is_short(space, found[number], specs[number])]
        if short:
            again = _search_exactly(space, users[short], [specs[number] for number in short])
            for number, best in zip(short, again, strict=True):
                found[number] = best
    return found


def _neighbours(
    space: SpaceView, queries: Vectors, width: int, ef: int | None, allowed: Allowed | None
) -> tuple[Rows, Scores]:
    """The nearest rows of the snapshot, of those that match where the filter leaves few or the engine evaluates it."""
    engine = space.space.engine
    if allowed is not None and _is_remote(space, allowed):
        assert isinstance(engine, RemoteEngine)
        return _rows_of(space, *engine.search(queries, width, ef=ef, where=allowed.where))
    if allowed is not None and _is_selective(allowed):
        return _among(space, queries, allowed, width)
    return _rows_of(space, *engine.search(queries, width, ef=ef))


def _rows_of(space: SpaceView, places: Rows, scores: Scores) -> tuple[Rows, Scores]:
    """Places of vectors as rows of the catalogue."""
    rows = space.space.rows
    return (places, scores) if rows is None else (np.where(places >= 0, rows[places], -1), scores)


def _among(space: SpaceView, queries: Vectors, allowed: Allowed, width: int) -> tuple[Rows, Scores]:
    """The best of the snapshot's items that match, all of them scored."""
    of = space.space
    if of.rows is None:
        return search_among(of.vectors, queries, allowed.rows, width)
    places = of.place_of[allowed.rows]
    return _rows_of(space, *search_among(of.vectors, queries, places[places >= 0], width))


def _is_remote(space: SpaceView, allowed: Allowed) -> bool:
    """Whether the engine evaluates the filter itself."""
    return allowed.where is not None and isinstance(space.space.engine, RemoteEngine)


def _is_short(space: SpaceView, found: Rows, spec: CandidateSpec) -> bool:
    return len(found) < spec.n and len(found) < _at_most(space, spec)


def _at_most(space: SpaceView, spec: CandidateSpec) -> int:
    """A bound from above on the number of items that are allowed."""
    banned = np.unique(spec.banned)
    if spec.allowed is None:
        return len(space.usable) - max(space.unusable, len(banned))
    if space.present is None:
        return spec.allowed.count - int(np.count_nonzero(spec.allowed.mask[banned]))
    mask = spec.allowed.mask & space.present
    return int(np.count_nonzero(mask)) - int(np.count_nonzero(mask[banned]))


def _is_selective(allowed: Allowed) -> bool:
    return len(allowed.rows) <= max(_EXACT_ITEMS, _EXACT_SHARE * allowed.items)


def _search_exactly(space: SpaceView, users: Vectors, specs: Sequence[CandidateSpec]) -> list[Rows]:
    """For users with the same filter."""
    allowed = specs[0].allowed
    needed = max(spec.n + len(spec.banned) for spec in specs)
    if allowed is not None:
        rows, scores = _among(space, users, allowed, needed)
    else:
        of = space.space
        rows, scores = _rows_of(space, *of.exact.search(users, min(len(of.vectors), needed + space.hidden)))
    return _best(space, users, rows, scores, specs)


def _best(space: SpaceView, users: Vectors, rows: Rows, scores: Scores, specs: Sequence[CandidateSpec]) -> list[Rows]:
    """Of each user's rows [users, width] with their scores, and of all that changed, the best n that are allowed.

    All users have the same filter.
    """
    filtered = specs[0].allowed if specs else None
    usable = space.usable if filtered is None else filtered.mask
    if len(space.changed):
        changed = usable[space.items :] if space.present is None else (usable & space.present)[space.items :]
        rows, scores = _with_changed(space, users, rows, scores, changed)
    allowed = rows >= 0
    if space.unusable or filtered is not None:
        allowed &= usable[rows]
    marked = np.zeros(len(space.usable), np.bool_)
    kept = []
    for row, fit, spec in zip(rows, allowed, specs, strict=True):
        if len(spec.banned):
            marked[spec.banned] = True
            fit &= ~marked[row]
            marked[spec.banned] = False
        kept.append(row[fit][: spec.n])
    return kept


def _with_changed(space: SpaceView, users: Vectors, rows: Rows, scores: Scores, usable: Mask) -> tuple[Rows, Scores]:
    """What the engine found [users, width] merged with as many of the best changed items, best first."""
    of_changed = users @ space.changed.T
    of_changed[:, ~usable] = -np.inf
    places = np.broadcast_to(np.arange(len(space.changed)), of_changed.shape)
    if of_changed.shape[1] > rows.shape[1]:
        places = np.argpartition(-of_changed, rows.shape[1] - 1, axis=1)[:, : rows.shape[1]]
        of_changed = np.take_along_axis(of_changed, places, axis=1)
    of_changed_rows = np.where(np.isfinite(of_changed), space.items + places, -1)
    all_rows = np.concatenate([rows, of_changed_rows], axis=1)
    all_scores = np.concatenate([np.where(rows >= 0, scores, -np.inf), of_changed], axis=1)
    order = np.argsort(-all_scores, axis=1, kind="stable")
    return np.take_along_axis(all_rows, order, axis=1), np.take_along_axis(all_scores, order, axis=1)


def _ef(space: SpaceView, spec: CandidateSpec) -> int | None:
    """The width of the search: what was asked for, the engine's own (`None`), or more where a filter drops items."""
    own = space.space.manifest.engine.parameters.get("ef")
    allowed = spec.allowed
    if spec.ef is not None or allowed is None or own is None or _is_selective(allowed) or _is_remote(space, allowed):
        return spec.ef
    return round(own * math.pow(allowed.items / len(allowed.rows), _EF_GROWTH))


def search_width(space: SpaceView, spec: CandidateSpec) -> int:
    """How many neighbours to ask for, so that enough remain when those that are not allowed are dropped.

    In steps of an eighth of their size, so that users with nearly equal wants share one search.
    """
    needed = spec.n + len(spec.banned)
    items = len(space.space.vectors)
    if spec.allowed is not None:
        if not _is_selective(spec.allowed) and not _is_remote(space, spec.allowed):
            needed = min(items, _MARGIN * -(-needed * space.items // len(spec.allowed.rows)))
    elif space.hidden:
        needed = min(items, -(-needed * items // max(1, items - space.hidden)))
    step = max(8, 1 << max(0, needed.bit_length() - 3))
    return -(-needed // step) * step
