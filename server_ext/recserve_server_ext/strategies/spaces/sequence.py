"""The strategy `sequence`: a transformer over the vectors of the last behaviours gives the user vector.

W.-C. Kang and J. McAuley, "Self-attentive sequential recommendation", ICDM 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec.structs import replace

from recserve_client.contract import ErrorKind, RequestError, models
from recserve_server_ext.batching.batcher import ModelCall
from recserve_server_ext.common.arrays import Ints
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.index.space import Space
from recserve_server_ext.networks.network import Behaviours, NetworkManifest
from recserve_server_ext.strategies.base import Candidates, Data, Explanation, Profile, Query
from recserve_server_ext.strategies.parts.leaving_out import LeavingOutOptions, in_order, left_out
from recserve_server_ext.strategies.parts.training_needed import not_trained
from recserve_server_ext.strategies.spaces.learned_space import input_vectors
from recserve_server_ext.strategies.spaces.vector_space import UserVectors, VectorSpace


@dataclass(frozen=True, eq=False)
class _Asked:
    """What the network is asked about a query.

    Attributes:
        places: [left out] positions in the history of the behaviours that are left out, the newest first.
        inputs: The behaviours, and then without each of these; empty for a history that the network cannot use.
    """

    places: Ints
    inputs: list[Behaviours]


class SequenceStrategy(VectorSpace):
    """score(i) = u . v_i, u the network's output for the last behaviours x_1 ... x_L and the pauses between them.

    The history of a request is read as oldest first. Behaviours with a negative weight are left out.
    """

    Options = LeavingOutOptions
    per_request = frozenset({"reasons"})
    space = models.SEQUENCE
    needs_texts = True

    def trainings(self, options: Any) -> frozenset[str]:
        """Its space."""
        return frozenset({self.space})

    def lacking(self, data: Data, options: Any) -> RequestError | None:
        """Needs its space with a network in the index."""
        found = data.view.snapshot.spaces.get(self.space)
        return None if found is not None and found.network is not None else not_trained(self.name, self.space)

    def pending(self, query: Query) -> ModelCall | None:
        """One call for all that the network is asked about the query."""
        waiting = [one for one in self._asked(query).inputs if one not in query.kept]
        if not waiting:
            return None
        return ModelCall(models.SEQUENCE, _manifest(self.view(query).space).fingerprint, waiting)

    def user_vectors(self, queries: Sequence[Query]) -> UserVectors:
        """What the network answered."""
        vectors = np.zeros((len(queries), self.view(queries[0]).dim), np.float32)
        for number, query in enumerate(queries):
            if inputs := self._asked(query).inputs:
                vectors[number] = query.kept[inputs[0]]
        return UserVectors(vectors, ~vectors.any(axis=1), self._refusal)

    def explain(self, queries: Sequence[Query], picks: Sequence[Candidates]) -> list[Explanation]:
        """What each of the newest behaviours adds: the score less that of the history without it. Approximate."""
        scored = self.score(queries, picks)
        return [
            self._explanation(query, items, Explanation(parts))
            for query, items, parts in zip(queries, picks, scored, strict=True)
        ]

    def _explanation(self, query: Query, items: Candidates, scored: Explanation) -> Explanation:
        asked = self._asked(query)
        if not len(asked.places):
            return scored
        whole, *others = (query.kept[one] for one in asked.inputs)
        changes = whole - np.stack(others)
        contributions = np.zeros((len(items.rows), len(query.profile.rows)))
        contributions[:, asked.places] = items.vectors(self.space, self.view(query)) @ changes.T
        return replace(scored, contributions=contributions, is_approximate=True)

    def _asked(self, query: Query) -> _Asked:
        key = self, "asked"
        found: _Asked | None = query.kept.get(key)
        if found is None:
            found = query.kept[key] = self._new_asked(query)
        return found

    def _new_asked(self, query: Query) -> _Asked:
        space, profile = self.view(query), query.profile
        order = in_order(profile)
        vectors = input_vectors(space, [query], profile.rows[None], None)[0, order]
        known = vectors.any(axis=1)
        order, vectors = order[known], vectors[known]
        if not len(order):
            return _Asked(order, [])
        whole = Behaviours(vectors, pauses(profile, order)).newest(_manifest(space.space).length)
        count = len(whole.vectors)
        places = left_out(query, order[-count:], query.options.reasons)
        return _Asked(places, [whole, *(whole.without(count - 1 - number) for number in range(len(places)))])

    def _refusal(self, _: int) -> RequestError:
        return RequestError(
            ErrorKind.EMPTY_HISTORY, f"no behaviour of the user has a vector in the space {self.space!r}"
        )


def pauses(profile: Profile, order: Ints) -> Any:
    """[n] seconds between each of these behaviours and the one before; 0 where that is not known."""
    if profile.time_us is None:
        return np.zeros(len(order))
    times = profile.time_us[order]
    return np.maximum(np.diff(times, prepend=times[:1]), 0) / MICROSECONDS


def _manifest(space: Space) -> NetworkManifest:
    assert space.network is not None
    return space.network.manifest
