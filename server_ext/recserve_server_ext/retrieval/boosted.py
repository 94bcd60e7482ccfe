"""The best items by score with boosts: the nearest ones, and every item whose boosts could lift it past them.

A threshold search. Of the n nearest items by plain score the k-th best boosted score is t, and no item that was not
found has a plain score above the n-th, s. So whatever belongs to the best k and was not found has a boost of t - s or
more: these few items are scored too. (R. Fagin, A. Lotem, M. Naor, "Optimal aggregation algorithms for middleware",
PODS 2001.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from recserve_server_ext.catalogue.view import SpaceView
from recserve_server_ext.common.arrays import Floats, Rows, Vectors
from recserve_server_ext.retrieval.search import CandidateSpec, search

#: Items that are scored at once, of all that boosts could lift (24 MiB of vectors of 384 dimensions).
_BLOCK: Final = 1 << 14
#: Float32 products summed in another order differ by less: an item this near to the threshold is looked at too.
_SLACK: Final = 1e-5


def search_boosted(
    space: SpaceView, users: Vectors, specs: Sequence[CandidateSpec], nearest: Sequence[int]
) -> list[Rows]:
    """Rows of the best allowed items of each user by u.v + boosts, best first.

    Exact but for what the engine misses among the nearest.

    Args:
        space: Where to search.
        users: [users, dim] unit vectors.
        specs: One for each user, with boosts.
        nearest: How many of the nearest items to begin with, at least as many as are wanted: the more, the fewer have
            to be scored for their boosts.
    """
    found = search(space, users, [spec._replace(n=n) for spec, n in zip(specs, nearest, strict=True)])
    scored = [_Scored.of(space, *of) for of in zip(users, found, specs, nearest, strict=True)]
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, (mine, spec) in enumerate(zip(scored, specs, strict=True)):
        if mine.least_boost < np.inf:
            groups[id(spec.boosts), id(spec.allowed)].append(number)
    for numbers in groups.values():
        _lift(space, users, specs, numbers, scored)
    return [mine.best(spec.n) for mine, spec in zip(scored, specs, strict=True)]


class _Scored(NamedTuple):
    """Candidates of one user.

    Attributes:
        rows: [n].
        scores: [n] with boosts.
        least_boost: What an item that is not among them needs to be one of the best; inf = none can be.
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

    def with_more(self, rows: Rows, scores: Floats, k: int) -> _Scored:
        """With others, of which only the best count."""
        best = np.argpartition(-scores, k - 1)[:k] if len(scores) > k else slice(None)
        return self._replace(
            rows=np.concatenate([self.rows, rows[best]]), scores=np.concatenate([self.scores, scores[best]])
        )

    def best(self, k: int) -> Rows:
        """The best k; equal ones in the order of their rows."""
        best: Rows = self.rows[np.lexsort([self.rows, -self.scores])[:k]]
        return best


def _lift(
    space: SpaceView, users: Vectors, specs: Sequence[CandidateSpec], numbers: list[int], scored: list[_Scored]
) -> None:
    """Score what the boosts could lift, for users with the same boosts and filter."""
    first = specs[numbers[0]]
    assert first.boosts is not None
    usable = space.usable
    if first.allowed is not None:
        usable = first.allowed.mask if space.present is None else first.allowed.mask & space.present
    least = np.array([scored[number].least_boost for number in numbers])
    rows = np.flatnonzero((first.boosts >= least.min()) & usable)
    if not len(rows):
        return
    known = np.zeros(len(usable), np.bool_)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        boosts = first.boosts[block]
        plain = space.vectors(block) @ users[numbers].T
        for place, number in enumerate(numbers):
            mine, spec = scored[number], specs[number]
            known[mine.rows] = known[spec.banned] = True
            new = ~known[block] & (boosts >= least[place])
            known[mine.rows] = known[spec.banned] = False
            scored[number] = mine.with_more(block[new], plain[new, place] + boosts[new], spec.n)
