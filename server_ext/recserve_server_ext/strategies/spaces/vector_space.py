"""Vector space strategies: turn a profile into a user vector and recommend the nearest items of a space."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from msgspec.structs import replace

from recserve_client.contract import RequestError
from recserve_server_ext.common.arrays import Floats, Ints, Mask, Rows, Vectors
from recserve_server_ext.index.space import Space
from recserve_server_ext.retrieval.boosted import search_boosted
from recserve_server_ext.retrieval.search import pool_size, search
from recserve_server_ext.strategies.base import Candidates, Data, Explanation, Parts, Query, Strategy
from recserve_server_ext.strategies.parts.training_needed import not_trained

if TYPE_CHECKING:
    from recserve_server_ext.catalogue.view import SpaceView

#: Item vectors that the covariance of a space is estimated from.
_SAMPLE: Final = 20_000


@dataclass(slots=True, eq=False)
class UserVectors:
    """Vectors of users whose histories have equal length.

    Attributes:
        vectors: [users, dim] user vectors; undefined where `cancelled`.
        cancelled: [users] users without a vector.
        refusal: Gives the error of such a user, by position.
        behaviours: [users, behaviours, dim] behaviour vectors, where the user vector is a weighted sum of them;
            `None` where it is not.
        shares: [users, behaviours] the weights of that sum.
        places: [users, behaviours] positions of these behaviours in the history; `None` where they are all of it.
    """

    vectors: Vectors
    cancelled: Mask
    refusal: Callable[[int], RequestError]
    behaviours: Vectors | None = None
    shares: Floats | None = None
    places: Ints | None = None


#: The vector of one user: an array of vectors and the user's position in it.
_UserVector = tuple[UserVectors, int]


class VectorSpace(Strategy):
    """Recommends by the inner product of a user vector and the item vectors of a space.

    Class attributes:
        space: Name of the space.
    """

    space: str

    @abstractmethod
    def user_vectors(self, queries: Sequence[Query]) -> UserVectors:
        """The vectors of users whose histories have equal length, in the order of the queries."""

    def view(self, query: Query) -> SpaceView:
        """The space as the query's batch sees it."""
        return query.data.view.space(self.space)

    def lacking(self, data: Data, options: Any) -> RequestError | None:
        """Needs its space in the index."""
        if self.space in data.view.snapshot.spaces:
            return None
        return not_trained(self.name, self.space)

    def cold(self, queries: Sequence[Query]) -> list[RequestError | None]:
        """Refuses profiles without a user vector."""
        return [users.refusal(row) if users.cancelled[row] else None for users, row in self._vectors_of(queries)]

    def candidates(self, queries: Sequence[Query], n: Sequence[int]) -> list[Rows]:
        """The nearest items; with boosts, the best by score plus boosts. See `recserve_server_ext.retrieval`."""
        users, space = self._matrix(queries), self.view(queries[0])
        specs = [
            query.spec if query.spec.n == wanted else replace(query.spec, n=wanted)
            for query, wanted in zip(queries, n, strict=True)
        ]
        boosted = [number for number, spec in enumerate(specs) if spec.boosts is not None]
        if not boosted:
            return search(space, users, specs)
        plain = [number for number, spec in enumerate(specs) if spec.boosts is None]
        plain_rows = search(space, users[plain], [specs[number] for number in plain])
        nearest = [pool_size(n[number]) for number in boosted]
        boosted_rows = search_boosted(space, users[boosted], [specs[number] for number in boosted], nearest)
        rows_of = dict(zip([*plain, *boosted], [*plain_rows, *boosted_rows], strict=True))
        return [rows_of[number] for number in range(len(queries))]

    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates]) -> list[Parts]:
        """Inner products u.v."""
        lengths = [len(items.rows) for items in candidates]
        rows = np.full((len(queries), max(lengths)), -1, np.int64)
        for line, length, items in zip(rows, lengths, candidates, strict=True):
            line[:length] = items.rows
        products = self.view(queries[0]).products(self._matrix(queries), rows).astype(np.float64)
        return [{self.name: line[:length]} for line, length in zip(products, lengths, strict=True)]

    def explain(self, queries: Sequence[Query], picks: Sequence[Candidates]) -> list[Explanation]:
        """Contribution of each behaviour to u.v, where the user vector is a weighted sum of behaviours.

        s_j (F(x_j) . v), with s_j the shares of `UserVectors`. The contributions add up to the score.
        """
        vectors = self._vectors_of(queries)
        if any(users.behaviours is None for users, _ in vectors):
            return super().explain(queries, picks)
        explained: list[Explanation | None] = [None] * len(queries)
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for number, ((users, _), items) in enumerate(zip(vectors, picks, strict=True)):
            groups[id(users), len(items.rows)].append(number)
        space = self.view(queries[0])
        for numbers in groups.values():
            users = vectors[numbers[0]][0]
            assert users.behaviours is not None
            assert users.shares is not None
            # The histories are copied only where the group is a part of the array.
            part = slice(None) if len(numbers) == len(users.vectors) else [vectors[number][1] for number in numbers]
            item_vectors = space.vectors(np.array([picks[number].rows for number in numbers]))
            # In this order, since BLAS is faster with the longer side first.
            products = np.matmul(users.behaviours[part], item_vectors.swapaxes(1, 2)).swapaxes(1, 2)
            contributions = users.shares[part][:, None, :] * products
            scores = contributions.sum(axis=2)
            if users.places is not None:
                chosen, contributions = contributions, np.zeros((*scores.shape, len(queries[numbers[0]].profile.rows)))
                np.put_along_axis(contributions, users.places[part][:, None, :], chosen, axis=2)
            for number, of_user, score in zip(numbers, contributions, scores, strict=True):
                explained[number] = Explanation({self.name: score}, of_user)
        return [explanation for explanation in explained if explanation is not None]

    def std(self, queries: Sequence[Query]) -> Floats:
        """sqrt(u C u), where C is the covariance of the space's item vectors; 0 for users without a vector."""
        space = self.view(queries[0]).space
        if getattr(self, "_covered", None) is not space:
            self._covered: Space = space
            self._covariance = covariance(space.vectors)
        users = self._matrix(queries)
        variance = np.einsum("ud,ud->u", users @ self._covariance, users, dtype=np.float64)
        cancelled = np.array([users.cancelled[row] for users, row in self._vectors_of(queries)])
        return np.where(cancelled, 0.0, np.sqrt(np.maximum(variance, 0.0)))

    def _vectors_of(self, queries: Sequence[Query]) -> list[_UserVector]:
        """The user vector of each query, computed once."""
        missing: dict[int, list[Query]] = defaultdict(list)
        for query in queries:
            if self not in query.kept:
                missing[len(query.profile.rows)].append(query)
        for group in missing.values():
            users = self.user_vectors(group)
            for row, query in enumerate(group):
                query.kept[self] = users, row
        return [query.kept[self] for query in queries]

    def _matrix(self, queries: Sequence[Query]) -> Vectors:
        """[queries, dim] their user vectors, copied only where they are not one array already."""
        vectors = self._vectors_of(queries)
        first = vectors[0][0]
        if len(first.vectors) == len(queries) and all(users is first for users, _ in vectors):
            rows = [row for _, row in vectors]
            return first.vectors if rows == list(range(len(rows))) else first.vectors[rows]
        return np.stack([users.vectors[row] for users, row in vectors])


def covariance(vectors: Vectors) -> Vectors:
    """[dim, dim] covariance of at most 20,000 evenly spaced vectors."""
    sample = np.asarray(vectors[:: -(-len(vectors) // _SAMPLE) or 1], np.float32)
    centred = sample - sample.mean(axis=0)
    product: Vectors = centred.T @ centred / max(len(sample), 1)
    return product
