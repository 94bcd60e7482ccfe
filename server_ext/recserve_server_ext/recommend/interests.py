"""Interest clusters: a history is split by spherical k-means, and the clusters' lists are interleaved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec.structs import replace

from recserve_server_ext.common.arrays import Floats, Ints, Vectors
from recserve_server_ext.recommend.job import CandidateList, Job
from recserve_server_ext.strategies.base import behaviour_vectors

#: A further cluster must raise the mean cosine of behaviours and their centres by at least this much.
GAIN: Final = 0.05
#: Behaviours that the centres are computed from: the heaviest of a history. All are assigned to a centre.
_HEAVIEST: Final = 100
_ROUNDS: Final = 5


def split_by_interest(jobs: Sequence[Job]) -> None:
    """Split the histories into interest clusters, with a candidate list for each."""
    for max_clusters in {job.request.interests for job in jobs}:
        group = [job for job in jobs if job.request.interests == max_clusters and job.profile.count]
        if not group:
            continue
        space = group[0].data.view.text
        histories = [(behaviour_vectors(space, [job.profile])[0], job.profile.weights) for job in group]
        for job, clusters in zip(group, interest_clusters(histories, max_clusters), strict=True):
            numbers = range(int(clusters.max(initial=0)) + 1)
            job.split = [_cluster_list(job, clusters, number) for number in numbers], clusters


def _cluster_list(job: Job, clusters: Ints, number: int) -> CandidateList:
    """The empty candidate list of one interest cluster."""
    assert job.query is not None
    profile = job.profile.restricted_to(clusters == number)
    positive, absolute = float(np.maximum(profile.weights, 0.0).sum()), float(np.abs(profile.weights).sum())
    query = replace(job.query, profile=profile, kept={})
    return CandidateList(query, job.configured, number, positive or absolute or 1.0)


def interest_clusters(histories: Sequence[tuple[Vectors, Floats]], max_clusters: int, gain: float = GAIN) -> list[Ints]:
    """The interest cluster of each behaviour of each history, numbered from 0 by weight, heaviest first.

    Spherical k-means (I. Dhillon and D. Modha, "Concept decompositions for large sparse text data using clustering",
    2001), without random draws: the first centre is the heaviest behaviour, each next one the behaviour least similar
    to the centres so far. k is the smallest number where k + 1 clusters would raise the weighted mean cosine of a
    behaviour and its centre by less than `gain`. Behaviours with negative weights do not move the centres, and are
    assigned to the nearest one.

    Args:
        histories: [users] vectors [behaviours, dim], zeros for unknown ones, and weights [behaviours].
        max_clusters: Largest k.
        gain: See above.
    """
    clusters: list[Ints] = [np.zeros(len(weights), np.int64) for _, weights in histories]
    users = [user for user, (_, weights) in enumerate(histories) if (weights > 0).any()]
    if not users or max_clusters < 2:
        return clusters
    heaviest = [np.sort(np.argsort(-histories[user][1], kind="stable")[:_HEAVIEST]) for user in users]
    behaviours = np.zeros((len(users), max(map(len, heaviest)), histories[0][0].shape[1]), np.float32)
    weights = np.zeros(behaviours.shape[:2])
    for number, (user, chosen) in enumerate(zip(users, heaviest, strict=True)):
        behaviours[number, : len(chosen)] = histories[user][0][chosen]
        weights[number, : len(chosen)] = np.maximum(histories[user][1][chosen], 0.0)
    for user, centres in zip(users, _centres(behaviours, weights, max_clusters, gain), strict=True):
        user_vectors, user_weights = histories[user]
        nearest = (user_vectors @ centres.T).argmax(axis=1)
        mass = np.bincount(nearest, np.maximum(user_weights, 0.0), minlength=len(centres))
        rank = np.empty(len(mass), np.int64)
        rank[np.argsort(-mass, kind="stable")] = np.arange(len(mass))
        clusters[user] = rank[nearest]
    return clusters


def _centres(behaviours: Vectors, weights: Floats, max_clusters: int, gain: float) -> list[Vectors]:
    """[users] unit centres [k, dim] of each user.

    Args:
        behaviours: [users, behaviours, dim].
        weights: [users, behaviours], none negative.
        max_clusters: Largest k.
        gain: See `interest_clusters`.
    """
    users = np.arange(len(weights))
    total = weights.sum(axis=1)
    first = behaviours[users, weights.argmax(axis=1)][:, None]
    seeds, previous_fit = first, np.full(len(users), -np.inf)
    is_growing = np.ones(len(users), np.bool_)
    centres = [first[user] for user in users]
    for k in range(1, max_clusters + 1):
        if k > 1:
            nearest = np.matmul(behaviours, seeds.swapaxes(1, 2)).max(axis=2)
            farthest = np.where(weights > 0, nearest, np.inf).argmin(axis=1)
            seeds = np.concatenate([seeds, behaviours[users, farthest][:, None]], axis=1)
        refined = _refined(behaviours, weights, seeds)
        fit = (np.matmul(behaviours, refined.swapaxes(1, 2)).max(axis=2) * weights).sum(axis=1) / total
        is_growing &= fit - previous_fit >= gain
        previous_fit = fit
        for user in np.flatnonzero(is_growing).tolist():
            centres[user] = refined[user]
        if not is_growing.any():
            break
    return centres


def _refined(behaviours: Vectors, weights: Floats, centres: Vectors) -> Vectors:
    """[users, k, dim] centres after some rounds of k-means; a centre without behaviours stays where it was."""
    for _ in range(_ROUNDS):
        nearest = np.matmul(behaviours, centres.swapaxes(1, 2)).argmax(axis=2)
        members = weights[:, None, :] * (nearest[:, None, :] == np.arange(centres.shape[1])[:, None])
        sums = np.matmul(members.astype(np.float32), behaviours)
        lengths = np.linalg.norm(sums, axis=2, keepdims=True)
        centres = np.where(lengths > 1e-6, sums / np.maximum(lengths, 1e-30), centres).astype(np.float32)
    return centres


def sainte_lague(lengths: Sequence[int], shares: Sequence[float]) -> list[Floats]:
    """Sort keys that interleave lists in proportion to their shares, by the Sainte-Laguë method.

    The item at position p (from 0) of a list with share s has the key (p + 1/2) / s. Every prefix of the merged list
    is divided as evenly as whole items allow.

    Args:
        lengths: [lists] their lengths.
        shares: [lists] above 0.
    """
    return [(np.arange(length) + 0.5) / share for length, share in zip(lengths, shares, strict=True)]
