"""Strategies over a trained space: a user vector is a recency-weighted mean of the vectors of behaviours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
from msgspec import Meta

from recserve_client.contract import ErrorKind, RequestError
from recserve_server_ext.common.arrays import Floats, Ints, Vectors
from recserve_server_ext.strategies.base import HEAVIEST, Options, Query
from recserve_server_ext.strategies.spaces.vector_space import UserVectors, VectorSpace

if TYPE_CHECKING:
    from recserve_server_ext.catalogue.view import SpaceView


class RecencyOptions(Options, frozen=True):
    """Options of strategies over a trained space.

    Attributes:
        half_life: Number of the user's newer interactions after which a behaviour counts half as much.
    """

    half_life: Annotated[float, Meta(gt=0, le=1e6)] = 4.0


class LearnedSpace(VectorSpace):
    """score(i) = u . v_i, u = sum_j w_j x_j / sum_j w_j.

    x_j is the input vector of behaviour j, w_j its recency weight.
    """

    Options = RecencyOptions
    per_request = frozenset({"half_life"})
    needs_texts = True
    grid = tuple({"half_life": half_life} for half_life in (1.0, 2.0, 4.0, 8.0, 16.0, 1e6))

    def trainings(self, options: RecencyOptions) -> frozenset[str]:
        """Its space."""
        return frozenset({self.space})

    def user_vectors(self, queries: Sequence[Query]) -> UserVectors:
        """The recency-weighted means of the behaviours' input vectors."""
        space, half_life = self.view(queries[0]), queries[0].options.half_life
        weights = np.array([query.profile.recency_weights(half_life) for query in queries])
        places: Ints | None = None
        rows = np.array([query.profile.rows for query in queries])
        if rows.shape[1] > HEAVIEST:
            places = np.argsort(-weights, axis=1, kind="stable")[:, :HEAVIEST]
            weights, rows = np.take_along_axis(weights, places, axis=1), np.take_along_axis(rows, places, axis=1)
        inputs = input_vectors(space, queries, rows, places)
        weights = np.where(inputs.any(axis=2), weights, 0.0)
        behaviours, shares = self.fold_in(space, inputs, weights)
        vectors = np.matmul(shares.astype(np.float32)[:, None, :], behaviours)[:, 0]
        cold = ~(weights > 0).any(axis=1) | ~vectors.any(axis=1)
        return UserVectors(vectors, cold, self._refusal, behaviours, shares, places)

    def fold_in(self, space: SpaceView, inputs: Vectors, weights: Floats) -> tuple[Vectors, Floats]:
        """Vectors of behaviours and their shares; a user vector is the sum of their products.

        Args:
            space: The space.
            inputs: [users, behaviours, dim] input vectors; zeros for unknown behaviours.
            weights: [users, behaviours] recency weights, not negative; 0 for unknown behaviours.
        """
        mass = weights.sum(axis=1, keepdims=True)
        return inputs, weights / np.where(mass > 0, mass, 1.0)

    def _refusal(self, _: int) -> RequestError:
        return RequestError(
            ErrorKind.EMPTY_HISTORY, f"no behaviour of the user has a vector in the space {self.space!r}"
        )


def input_vectors(space: SpaceView, queries: Sequence[Query], rows: Ints, places: Ints | None) -> Vectors:
    """[users, behaviours, dim] input vectors of behaviours; those of texts by the space's map, where it has one.

    Args:
        space: The space.
        queries: [users].
        rows: [users, behaviours] rows of these behaviours.
        places: [users, behaviours] their positions in the history; `None` where they are all of it.
    """
    inputs = space.inputs(rows)
    if space.space.text_map is None or rows.min(initial=0) >= 0:
        return inputs
    text_map = space.space.text_map[:, -space.dim :]
    for number, query in enumerate(queries):
        of_text = query.profile.vectors
        positions = range(rows.shape[1]) if places is None else places[number].tolist()
        found = [(place, of_text[position]) for place, position in enumerate(positions) if position in of_text]
        for place, vector in found:
            inputs[number, place] = vector @ text_map[:-1] + text_map[-1]
    return inputs
