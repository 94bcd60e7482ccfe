"""Exact top-k search by score plus boosts: the nearest items, and every item whose boost could lift it into the top k.

A threshold algorithm (R. Fagin, A. Lotem, M. Naor, "Optimal aggregation algorithms for middleware", PODS 2001). Take
the n nearest items by plain score. Let t be their k-th best boosted score and s their n-th plain score. An item outside
them has a plain score of at most s, so it belongs to the top k only with a boost of at least t - s. Only these few
items are scored too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from msgspec.structs import replace

from recserve_server_ext.common.arrays import Floats, Rows, Vectors
from recserve_server_ext.retrieval.search import CandidateSpec, search

if TYPE_CHECKING:
    from recserve_server_ext.catalogue.view import SpaceView

#: Items that are scored at once for their boosts (24 MiB of vectors of 384 dimensions).
_BLOCK: Final = 1 << 14
#: Bound of the rounding error of float32 inner products; items this near to the threshold are scored too.
_SLACK: Final = 1e-5


def search_boosted(
    space: SpaceView, users: Vectors, specs: Sequence[CandidateSpec], nearest: Sequence[int]
) -> list[Rows]:
    """Rows of the best allowed items of each user by u.v + boosts, best first.

    Exact, apart from what the engine misses among the nearest items.

    Args:
        space: The space to search.
        users: [users, dim] unit vectors.
        specs: [users] specs with boosts.
        nearest: [users] nearest items to begin with, at least `spec.n`. With more of them, fewer items have to be
            scored for their boosts.
    """
    found = search(space, users, [replace(spec, n=n) for spec, n in zip(specs, nearest, strict=True)])
    scored = [_Scored.of(space, *args) for args in zip(users, found, specs, nearest, strict=True)]
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, (candidates, spec) in enumerate(zip(scored, specs, strict=True)):
        if candidates.least_boost < np.inf:
            groups[id(spec.boosts), id(spec.allowed)].append(number)
    for numbers in groups.values():
        _add_boosted(space, users, specs, numbers, scored)
    return [candidates.best(spec.n) for candidates, spec in zip(scored, specs, strict=True)]


class _Scored(NamedTuple):
    """Scored candidates of one user.

    Attributes:
        rows: [n].
        scores: [n] with boosts.
        least_boost: Boost that another item needs to be in the top k; inf where no other item can be.
    """

    rows: Rows
    scores: Floats
    least_boost: float

    @classmethod
    def of(cls, space: SpaceView, user: Vectors, rows: Rows, spec: CandidateSpec, nearest: int) -> _Scored:
        assert spec.boosts is not None
        plain = (space.vectors(rows) @ user).astype(np.float64)
        scores = plain + spec.boosts[rows]
        k = spec.n
        if len(rows) < nearest or not len(rows):
            return cls(rows, scores, np.inf)  # these are all that are allowed
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
        return cls(rows, scores, float(threshold - plain.min() - _SLACK))

    def with_best(self, rows: Rows, scores: Floats, k: int) -> _Scored:
        """These candidates and the best k of others."""
        best = np.argpartition(-scores, k - 1)[:k] if len(scores) > k else slice(None)
        return self._replace(
            rows=np.concatenate([self.rows, rows[best]]), scores=np.concatenate([self.scores, scores[best]])
        )

    def best(self, k: int) -> Rows:
        """The best k rows; ties by row."""
        best: Rows = self.rows[np.lexsort([self.rows, -self.scores])[:k]]
        return best


def _add_boosted(
    space: SpaceView, users: Vectors, specs: Sequence[CandidateSpec], numbers: list[int], scored: list[_Scored]
) -> None:
    """Score the items that boosts could lift, for users with the same boosts and filter."""
    first = specs[numbers[0]]
    assert first.boosts is not None
    usable = space.usable
    if first.allowed is not None:
        usable = first.allowed.mask if space.present is None else first.allowed.mask & space.present
    least = np.array([scored[number].least_boost for number in numbers])
    rows = np.flatnonzero((first.boosts >= least.min()) & usable)
    if not len(rows):
        return
    is_excluded = np.zeros(len(usable), np.bool_)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        boosts = first.boosts[block]
        plain = space.vectors(block) @ users[numbers].T
        for place, number in enumerate(numbers):
            candidates, spec = scored[number], specs[number]
            is_excluded[candidates.rows] = is_excluded[spec.banned] = True
            is_new = ~is_excluded[block] & (boosts >= least[place])
            is_excluded[candidates.rows] = is_excluded[spec.banned] = False
            scored[number] = candidates.with_best(block[is_new], plain[is_new, place] + boosts[is_new], spec.n)
