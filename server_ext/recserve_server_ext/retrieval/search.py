"""Top-k search for user vectors under filters and bans: over-fetch, drop what is not allowed, never return too few."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from recserve_server_ext.common.arrays import Floats, Mask, Rows, Scores, Vectors
from recserve_server_ext.index.engines.engine import RemoteEngine, most_banned, without_banned
from recserve_server_ext.index.engines.exact import search_among

if TYPE_CHECKING:
    from recserve_server_ext.attributes.view import Allowed
    from recserve_server_ext.catalogue.view import SpaceView

#: A filter that leaves at most this share of the snapshot, or so few items, is selective: all matching items are
#: scored. With a wider filter the search over-fetches and drops. Measured: docs/decisions/007-filters.md.
_EXACT_SHARE = 0.2
_EXACT_ITEMS = 2000
#: Over-fetch beyond what evenly spread matching items need, so that fewer users have to be searched again.
_MARGIN = 2
#: And for so many more matching items, as few wanted ones may lie where few match.
_ROOM = 20
#: Where that is not enough, a search for so many times as many comes before an exact one of all that match, which reads
#: their vectors: some 10 ms a user for half of 65,000, where this takes 1 to 2.
_WIDER = 8
#: Over-fetch for items that are hidden, in standard deviations of how many of n are, where they are spread evenly.
_DEVIATIONS = 3
#: `ef` of a graph grows by (items / matching items) to this power; `scan` widens by itself.
_EF_GROWTH = 0.5


class CandidateSpec(msgspec.Struct, frozen=True, eq=False):
    """Which items one user may get, and how many are wanted.

    Attributes:
        n: Number of items.
        banned: Rows that must not be returned.
        ef: Width of the search; `None` takes the index's own.
        allowed: Available items that match the filter; `None` without a filter. Users with the same object share a
            search.
        boosts: [rows] what is added to the score of each row; `None` without boosts. Users with the same object share
            the work.
    """

    n: int
    banned: Rows
    ef: int | None = None
    allowed: Allowed | None = None
    boosts: Floats | None = None


def pool_size(n: int) -> int:
    """Candidates to choose n items from: 4 n, at least 100, at most n + 1,000."""
    return max(100, min(4 * n, n + 1000))


def search(space: SpaceView, users: Vectors, specs: Sequence[CandidateSpec]) -> list[Rows]:
    """Rows of the best allowed items of each user by u.v, best first; boosts do not count here.

    A user gets n rows whenever n items are allowed: where too few neighbours are allowed, a wider search follows, and
    an exact one of all that are allowed where that finds too few, too. Items that changed after the snapshot are always
    searched exactly.

    Args:
        space: The space to search.
        users: [users, dim] unit vectors.
        specs: [users].
    """
    found: list[Rows] = [np.empty(0, np.int64)] * len(specs)
    groups: dict[tuple[int, int | None, int], list[int]] = defaultdict(list)
    for number, spec in enumerate(specs):
        groups[_width(space, spec), _ef(space, spec), id(spec.allowed)].append(number)
    for (width, ef, _), numbers in groups.items():
        queries = users if len(numbers) == len(specs) else users[numbers]
        best = _search(space, queries, width, ef, [specs[number] for number in numbers])
        for number, rows in zip(numbers, best, strict=True):
            found[number] = rows
    return found


def _search(
    space: SpaceView, queries: Vectors, width: int, ef: int | None, specs: Sequence[CandidateSpec]
) -> list[Rows]:
    """The best allowed rows of users with the same filter: among so many neighbours, among more, or exactly."""
    found = _search_approximately(space, queries, width, ef, specs)
    is_wider = not isinstance(space.space.engine, RemoteEngine) and _WIDER * width < len(space.space.vectors)
    for wider in (_WIDER * width, None) if is_wider else (None,):
        short = [place for place, spec in enumerate(specs) if _is_short(space, found[place], spec)]
        if not short:
            break
        of_short = [specs[place] for place in short]
        if wider is None:
            best = _search_exactly(space, queries[short], of_short)
        else:
            best = _search_approximately(space, queries[short], wider, ef, of_short)
        for place, rows in zip(short, best, strict=True):
            found[place] = rows
    return found


def _search_approximately(
    space: SpaceView, queries: Vectors, width: int, ef: int | None, specs: Sequence[CandidateSpec]
) -> list[Rows]:
    """The best allowed rows among so many neighbours, for users with the same filter."""
    rows, scores = _neighbours(space, queries, width, ef, specs)
    return _best(space, queries, rows, scores, specs)


def _width(space: SpaceView, spec: CandidateSpec) -> int:
    """Neighbours to fetch, so that n remain when those that are not allowed are dropped; none of them is banned."""
    n, items = spec.n, len(space.space.vectors)
    if spec.allowed is not None:
        if _is_selective(spec.allowed) or _is_remote(space, spec.allowed):
            return n
        return min(items, _MARGIN * -(-(n + _ROOM) * space.items // len(spec.allowed.rows)))
    if not space.hidden:
        return n
    hidden = space.hidden / items
    return math.ceil(min(items, (n + _DEVIATIONS * math.sqrt(n * hidden)) / max(1 - hidden, 1 / items)))


def _ef(space: SpaceView, spec: CandidateSpec) -> int | None:
    """The requested `ef`, the engine's own (`None`), or a larger one where a filter drops neighbours."""
    default = space.space.manifest.engine.parameters.get("ef")
    allowed = spec.allowed
    if (
        spec.ef is not None
        or allowed is None
        or default is None
        or _is_selective(allowed)
        or _is_remote(space, allowed)
    ):
        return spec.ef
    return round(default * math.pow(allowed.items / len(allowed.rows), _EF_GROWTH))


def _neighbours(
    space: SpaceView, queries: Vectors, width: int, ef: int | None, specs: Sequence[CandidateSpec]
) -> tuple[Rows, Scores]:
    """The nearest rows of the snapshot but the banned ones, for users with the same filter.

    Matching rows only, where the filter is selective or the engine applies it.
    """
    engine, allowed, banned = space.space.engine, specs[0].allowed, _banned_places(space, specs)
    if allowed is not None and _is_remote(space, allowed):
        assert isinstance(engine, RemoteEngine)
        return _rows_of(space, *engine.search(queries, width, ef=ef, banned=banned, where=allowed.where))
    if allowed is not None and _is_selective(allowed):
        return _search_among(space, queries, allowed.rows, width, banned)
    return _rows_of(space, *engine.search(queries, width, ef=ef, banned=banned))


def _banned_places(space: SpaceView, specs: Sequence[CandidateSpec]) -> Sequence[Rows]:
    """Positions of each user's banned rows in the vectors of a space; none where nobody has any."""
    banned = [spec.banned for spec in specs]
    if not any(map(len, banned)):
        return ()
    if len(space.changed):
        banned = [rows[rows < space.items] for rows in banned]
    if space.space.rows is not None:
        placed = [space.space.place_of[rows] for rows in banned]
        banned = [places[places >= 0] for places in placed]
    return banned


def _rows_of(space: SpaceView, places: Rows, scores: Scores) -> tuple[Rows, Scores]:
    """Positions in the vectors of a space as rows of the catalogue."""
    rows = space.space.rows
    return (places, scores) if rows is None else (np.where(places >= 0, rows[places], -1), scores)


def _search_among(
    space: SpaceView, queries: Vectors, rows: Rows, width: int, banned: Sequence[Rows]
) -> tuple[Rows, Scores]:
    """The best of some rows of the snapshot, in rising order, by scoring all of them; see `_banned_places`."""
    stored = space.space
    if stored.rows is not None:
        placed = stored.place_of[rows]
        rows = placed[placed >= 0]
    found = search_among(stored.vectors, queries, rows, width + most_banned(banned))
    return _rows_of(space, *without_banned(*found, banned, len(stored.vectors), width))


def _search_exactly(space: SpaceView, users: Vectors, specs: Sequence[CandidateSpec]) -> list[Rows]:
    """The best allowed rows of users with the same filter, by exact search."""
    allowed, stored, banned = specs[0].allowed, space.space, _banned_places(space, specs)
    needed = max(spec.n for spec in specs)
    if allowed is not None:
        rows, scores = _search_among(space, users, allowed.rows, needed, banned)
    elif space.hidden > needed:  # to sort the best and then drop most of them would cost more
        rows, scores = _search_among(space, users, np.flatnonzero(space.usable[: space.items]), needed, banned)
    else:
        width = min(len(stored.vectors), needed + space.hidden)
        rows, scores = _rows_of(space, *stored.exact.search(users, width, banned=banned))
    return _best(space, users, rows, scores, specs)


def _is_remote(space: SpaceView, allowed: Allowed) -> bool:
    """Whether the engine evaluates the filter itself."""
    return allowed.where is not None and isinstance(space.space.engine, RemoteEngine)


def _is_selective(allowed: Allowed) -> bool:
    return len(allowed.rows) <= max(_EXACT_ITEMS, _EXACT_SHARE * allowed.items)


def _is_short(space: SpaceView, found: Rows, spec: CandidateSpec) -> bool:
    return len(found) < spec.n and len(found) < _at_most(space, spec)


def _at_most(space: SpaceView, spec: CandidateSpec) -> int:
    """An upper bound on the number of allowed items."""
    banned = np.unique(spec.banned)
    if spec.allowed is None:
        return len(space.usable) - max(space.unusable, len(banned))
    if space.present is None:
        return spec.allowed.count - int(np.count_nonzero(spec.allowed.mask[banned]))
    mask = spec.allowed.mask & space.present
    return int(np.count_nonzero(mask)) - int(np.count_nonzero(mask[banned]))


def _best(space: SpaceView, users: Vectors, rows: Rows, scores: Scores, specs: Sequence[CandidateSpec]) -> list[Rows]:
    """The best n allowed rows of each user, from rows found [users, width] that are not banned, and all changed items.

    All users have the same filter.
    """
    allowed = specs[0].allowed if specs else None
    usable = space.usable if allowed is None else allowed.mask
    if len(space.changed):
        changed = usable[space.items :] if space.present is None else (usable & space.present)[space.items :]
        rows, scores = _with_changed(space, users, rows, scores, changed, specs)
    is_allowed = rows >= 0
    if space.unusable or allowed is not None:
        is_allowed &= usable[rows]
    return [of_user[mask][: spec.n] for of_user, mask, spec in zip(rows, is_allowed, specs, strict=True)]


def _with_changed(
    space: SpaceView, users: Vectors, rows: Rows, scores: Scores, usable: Mask, specs: Sequence[CandidateSpec]
) -> tuple[Rows, Scores]:
    """The rows found [users, width], merged with up to as many of the best changed items not banned, best first."""
    changed_scores = users @ space.changed.T
    changed_scores[:, ~usable] = -np.inf
    for of_user, spec in zip(changed_scores, specs, strict=True):
        of_user[spec.banned[spec.banned >= space.items] - space.items] = -np.inf
    places = np.broadcast_to(np.arange(len(space.changed)), changed_scores.shape)
    if changed_scores.shape[1] > rows.shape[1]:
        places = np.argpartition(-changed_scores, rows.shape[1] - 1, axis=1)[:, : rows.shape[1]]
        changed_scores = np.take_along_axis(changed_scores, places, axis=1)
    changed_rows = np.where(np.isfinite(changed_scores), space.items + places, -1)
    all_rows = np.concatenate([rows, changed_rows], axis=1)
    all_scores = np.concatenate([np.where(rows >= 0, scores, -np.inf), changed_scores], axis=1)
    order = np.argsort(-all_scores, axis=1, kind="stable")
    return np.take_along_axis(all_rows, order, axis=1), np.take_along_axis(all_scores, order, axis=1)
