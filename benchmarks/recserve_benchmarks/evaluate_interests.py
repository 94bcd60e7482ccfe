"""Several interests: a history is clustered, each cluster searched, and the lists interleaved in proportion."""

from __future__ import annotations

from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recserve_benchmarks.evaluate_ranking import NEVER, Known, Scores, Vectors
from recserve_benchmarks.evaluate_system import Settings, System
from recserve_benchmarks.evaluate_text import blocks, fitted, rules_of
from recserve_server_ext.event_columns import Ints
from recserve_server_ext.user_vectors import user_vectors

_ROUNDS: Final = 5
_INTERESTS: Final = (2, 3, 5)


def clustered(behaviours: Vectors, weights: NDArray[np.float64], interests: int) -> Ints:
    """[users, behaviours] Cluster of each behaviour by spherical k-means; those without a weight have any.

    The first centre is the heaviest behaviour, each next one the behaviour least like those before it, so nothing is
    drawn. I. Dhillon and D. Modha, "Concept decompositions for large sparse text data using clustering", 2001.

    Args:
        behaviours: [users, behaviours, dim] unit vectors.
        weights: [users, behaviours], none negative.
        interests: Clusters; some stay empty where there are fewer behaviours.
    """
    users = np.arange(len(weights))
    centres = [behaviours[users, weights.argmax(axis=1)]]
    nearest = np.matmul(behaviours, centres[0][:, :, None])[:, :, 0]
    for _ in range(interests - 1):
        farthest = np.where(weights > 0, nearest, np.inf).argmin(axis=1)
        centres.append(behaviours[users, farthest])
        nearest = np.maximum(nearest, np.matmul(behaviours, centres[-1][:, :, None])[:, :, 0])
    for _ in range(_ROUNDS):
        cluster = np.matmul(behaviours, np.stack(centres, axis=2)).argmax(axis=2)
        centres = [user_vectors(behaviours, weights * (cluster == number)).vectors for number in range(interests)]
    return np.asarray(np.matmul(behaviours, np.stack(centres, axis=2)).argmax(axis=2), np.int64)


def interleaved(scores: Scores, shares: NDArray[np.float64], seen: NDArray[np.bool_]) -> Scores:
    """[n, items] Scores of one list made of several, in proportion to their shares.

    An item at place p (from 0) of a list of share s has the turn (p + 1/2) / s, in the least of its lists: the method
    of Sainte-Lague, by which every first part of the list is shared out as evenly as whole items allow.

    Args:
        scores: [lists, n, items].
        shares: [lists, n]; a list with 0 has no turns.
        seen: [n, items] What takes no place.
    """
    turn = np.full(seen.shape, np.inf)
    for of_list, share in zip(scores, shares, strict=True):
        order = np.argsort(np.where(seen, np.inf, -of_list), axis=1, kind="stable")
        place = np.empty(order.shape, np.float64)
        np.put_along_axis(place, order, np.broadcast_to(np.arange(order.shape[1]), order.shape), axis=1)
        with np.errstate(divide="ignore"):
            turn = np.minimum(turn, (place + 0.5) / share[:, None])
    return np.asarray(-turn, np.float32)


def by_interests(known: Known, settings: Settings) -> Scores:
    """The text system with a user vector for each of several interests."""
    rules, interests = rules_of(settings), settings["interests"]
    count, dim = len(known.part.users), known.vectors.shape[1]
    vectors = np.zeros((interests, count, dim), np.float32)
    mass = np.zeros((interests, count))
    for users, behaviours, weights in blocks(known.histories, fitted(rules, known.columns), known.vectors):
        cluster = clustered(behaviours, weights, interests)
        for number in range(interests):
            found = user_vectors(behaviours, weights * (cluster == number))
            vectors[number, users] = found.vectors
            mass[number, users] = np.where(found.cancelled, 0.0, found.mass)
    total = mass.sum(axis=0)
    scores = interleaved(vectors @ known.vectors.T, mass / np.maximum(total, 1e-300), known.seen)
    scores[:, ~known.vectors.any(axis=1)] = NEVER
    return scores


SYSTEMS: Final = (
    System(
        name="text, several interests",
        kind="text",
        score=by_interests,
        grid=tuple(
            {"interests": interests, "half_life_events": half_life}
            for interests, half_life in product(_INTERESTS, (None, 4.0))
        ),
    ),
)
