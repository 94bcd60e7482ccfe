"""Strategies that turn a profile into a vector, and recommend the items nearest to it in a space."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from recserve_client.contract import ErrorKind, RequestError
from recserve_server_ext.catalogue.view import SpaceView
from recserve_server_ext.common.arrays import Floats, Mask, Rows, Vectors
from recserve_server_ext.index.space import Space
from recserve_server_ext.retrieval.boosted import search_boosted
from recserve_server_ext.retrieval.search import search
from recserve_server_ext.strategies.base import Candidates, Data, Explanation, Parts, Query, Strategy

#: Item vectors that the standard deviation of a user's scores is measured on.
_SAMPLE: Final = 20_000


@dataclass(slots=True, eq=False)
class UserVectors:
    """Vectors of users whose histories are equally long.

    Attributes:
        vectors: [users, dim]; undefined where `cancelled`.
        cancelled: [users] whether there is no vector.
        refusal: Place of such a user -> why.
        behaviours: [users, behaviours, dim] vectors of the behaviours, where the user vector is a weighted sum of
            them; `None` where it is not.
        shares: [users, behaviours] what each of them was multiplied by.
    """

    vectors: Vectors
    cancelled: Mask
    refusal: Callable[[int], RequestError]
    behaviours: Vectors | None = None
    shares: Floats | None = None


#: A user among others.
_Placed = tuple[UserVectors, int]


class VectorSpace(Strategy):
    """Recommends by the inner product of a user vector and the item vectors of a space.

    Class attributes:
        space: Name of the space.
    """

    space: str

    @abstractmethod
    def user_vectors(self, queries: Sequence[Query]) -> UserVectors:
        """The vectors of some users with equally long histories, in their order."""

    def view(self, query: Query) -> SpaceView:
        """The space as the query's batch sees it."""
        return query.data.view.space(self.space)

    def lacking(self, data: Data, options: Any) -> RequestError | None:
        """It needs its space in the index."""
        if self.space in data.view.snapshot.spaces:
            return None
        return RequestError(
            ErrorKind.UNAVAILABLE,
            f"the strategy {self.name!r} needs the space {self.space!r}, which the index does not have: train it, and "
            "build the index with: recserve index build",
        )

    def cold(self, queries: Sequence[Query]) -> list[RequestError | None]:
        """Those whose behaviours add up to no vector."""
        return [users.refusal(place) if users.cancelled[place] else None for users, place in self._placed(queries)]

    def candidates(self, queries: Sequence[Query], n: Sequence[int]) -> list[Rows]:
        """The nearest items, with boosts the best by both; see `retrieval/`."""
        users, space = self._matrix(queries), self.view(queries[0])
        specs = [
            query.spec if query.spec.n == wanted else query.spec._replace(n=wanted)
            for query, wanted in zip(queries, n, strict=True)
        ]
        boosted = [number for number, spec in enumerate(specs) if spec.boosts is not None]
        if not boosted:
            return search(space, users, specs)
        plain = [number for number, spec in enumerate(specs) if spec.boosts is None]
        of_plain = search(space, users[plain], [specs[number] for number in plain])
        nearest = [several(n[number]) for number in boosted]
        of_boosted = search_boosted(space, users[boosted], [specs[number] for number in boosted], nearest)
        found = dict(zip([*plain, *boosted], [*of_plain, *of_boosted], strict=True))
        return [found[number] for number in range(len(queries))]

    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates]) -> list[Parts]:
        """u.v."""
        scored = []
        for (users, place), query, of in zip(self._placed(queries), queries, candidates, strict=True):
            vectors = of.vectors(self.space, self.view(query))
            scored.append({self.name: (vectors @ users.vectors[place]).astype(np.float64)})
        return scored

    def explain(self, queries: Sequence[Query], picks: Sequence[Candidates]) -> list[Explanation]:
        """The share of each behaviour in u.v, where the user vector is a weighted sum of behaviours.

        s_j (F(x_j) . v), with s_j the shares of `UserVectors`: a row adds up to the item's score.
        """
        placed = self._placed(queries)
        if any(users.behaviours is None for users, _ in placed):
            return super().explain(queries, picks)
        explained: list[Explanation | None] = [None] * len(queries)
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for number, ((users, _), of) in enumerate(zip(placed, picks, strict=True)):
            groups[id(users), len(of.rows)].append(number)
        space = self.view(queries[0])
        for numbers in groups.values():
            users = placed[numbers[0]][0]
            assert users.behaviours is not None
            assert users.shares is not None
            # A copy of the histories only where the group has to be cut.
            part = slice(None) if len(numbers) == len(users.vectors) else [placed[number][1] for number in numbers]
            items = space.vectors(np.array([picks[number].rows for number in numbers]))
            shares = users.shares[part][:, None, :] * np.matmul(items, users.behaviours[part].swapaxes(1, 2))
            for number, own, score in zip(numbers, shares, shares.sum(axis=2), strict=True):
                explained[number] = Explanation({self.name: score}, own)
        return [found for found in explained if found is not None]

    def std(self, queries: Sequence[Query]) -> Floats:
        """sqrt(u C u), C the covariance of the space's item vectors; 0 for those without a vector."""
        space = self.view(queries[0]).space
        if getattr(self, "_covered", None) is not space:
            self._covered: Space = space
            self._covariance = covariance(space.vectors)
        users = self._matrix(queries)
        variance = np.einsum("ud,ud->u", users @ self._covariance, users, dtype=np.float64)
        cancelled = np.array([users.cancelled[place] for users, place in self._placed(queries)])
        return np.where(cancelled, 0.0, np.sqrt(np.maximum(variance, 0.0)))

    def _placed(self, queries: Sequence[Query]) -> list[_Placed]:
        """The vector of each query's user, worked out once."""
        missing: dict[int, list[Query]] = defaultdict(list)
        for query in queries:
            if self not in query.kept:
                missing[len(query.profile.rows)].append(query)
        for group in missing.values():
            users = self.user_vectors(group)
            for place, query in enumerate(group):
                query.kept[self] = users, place
        return [query.kept[self] for query in queries]

    def _matrix(self, queries: Sequence[Query]) -> Vectors:
        """[queries, dim] their user vectors."""
        placed = self._placed(queries)
        first = placed[0][0]
        if len(first.vectors) == len(queries) and all(users is first for users, _ in placed):
            return first.vectors[[place for _, place in placed]] if _moved(placed) else first.vectors
        return np.stack([users.vectors[place] for users, place in placed])


def _moved(placed: Sequence[_Placed]) -> bool:
    return any(place != number for number, (_, place) in enumerate(placed))


def several(n: int) -> int:
    """Candidates where n are to be chosen among them: four times as many, at least 100, at most 1,000 more."""
    return max(100, min(4 * n, n + 1000))


def covariance(vectors: Vectors) -> Vectors:
    """[dim, dim] of at most 20,000 evenly spaced ones."""
    sample = np.asarray(vectors[:: -(-len(vectors) // _SAMPLE) or 1], np.float32)
    centred = sample - sample.mean(axis=0)
    found: Vectors = centred.T @ centred / max(len(sample), 1)
    return found
