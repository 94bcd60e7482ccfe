"""Several interests: a history is parted into clusters, and lists of each are interleaved in proportion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from recserve_server_ext.common.arrays import Floats, Ints, Vectors

#: One more interest is worth it where the mean cosine of a behaviour and its interest grows by at least this much.
GAIN: Final = 0.05
#: Behaviours that the interests are found by: the heaviest. All are given to one of them.
_FOUND_BY: Final = 100
_ROUNDS: Final = 5


def interests_of(histories: Sequence[tuple[Vectors, Floats]], most: int, gain: float = GAIN) -> list[Ints]:
    """The interest of each behaviour of each history, from 0, the heaviest interest first.

    Clusters are those of spherical k-means (I. Dhillon and D. Modha, "Concept decompositions for large sparse text data
    using clustering", 2001). The first centre is the heaviest behaviour, each next one the behaviour least like those
    before it, so nothing is drawn. k is the least number such that k + 1 clusters would raise the mean cosine of a
    behaviour (by weight) and its centre by less than `gain`. Behaviours that push away belong to the nearest one, and
    do not count here.

    Args:
        histories: Of each user the vectors [behaviours, dim] (zeros where there is none) and weights [behaviours].
        most: Greatest k.
        gain: See above.
    """
    found: list[Ints] = [np.zeros(len(weights), np.int64) for _, weights in histories]
    users = [n for n, (_, weights) in enumerate(histories) if (weights > 0).any()]
    if not users or most < 2:
        return found
    heaviest = [np.sort(np.argsort(-histories[n][1], kind="stable")[:_FOUND_BY]) for n in users]
    behaviours = np.zeros((len(users), max(map(len, heaviest)), histories[0][0].shape[1]), np.float32)
    weights = np.zeros(behaviours.shape[:2])
    for line, (n, chosen) in enumerate(zip(users, heaviest, strict=True)):
        behaviours[line, : len(chosen)] = histories[n][0][chosen]
        weights[line, : len(chosen)] = np.maximum(histories[n][1][chosen], 0.0)
    centres = _centres(behaviours, weights, most, gain)
    for n, of_user in zip(users, centres, strict=True):
        vectors, own = histories[n]
        label = (vectors @ of_user.T).argmax(axis=1)
        mass = np.bincount(label, np.maximum(own, 0.0), minlength=len(of_user))
        rank = np.empty(len(mass), np.int64)
        rank[np.argsort(-mass, kind="stable")] = np.arange(len(mass))
        found[n] = rank[label]
    return found


def _centres(behaviours: Vectors, weights: Floats, most: int, gain: float) -> list[Vectors]:
    """Of each user [k, dim] unit centres, k by the rule; weights [users, behaviours], none negative."""
    users = np.arange(len(weights))
    total = weights.sum(axis=1)
    first = behaviours[users, weights.argmax(axis=1)][:, None]
    seeds, before = first, np.full(len(users), -np.inf)
    growing = np.ones(len(users), np.bool_)
    kept = [first[user] for user in users]
    for k in range(1, most + 1):
        if k > 1:
            nearest = np.matmul(behaviours, seeds.swapaxes(1, 2)).max(axis=2)
            farthest = np.where(weights > 0, nearest, np.inf).argmin(axis=1)
            seeds = np.concatenate([seeds, behaviours[users, farthest][:, None]], axis=1)
        best = _settled(behaviours, weights, seeds)
        fit = (np.matmul(behaviours, best.swapaxes(1, 2)).max(axis=2) * weights).sum(axis=1) / total
        growing &= fit - before >= gain
        before = fit
        for user in np.flatnonzero(growing).tolist():
            kept[user] = best[user]
        if not growing.any():
            break
    return kept


def _settled(behaviours: Vectors, weights: Floats, centres: Vectors) -> Vectors:
    """[users, k, dim] the centres after some rounds; one that loses all its behaviours stays where it was."""
    for _ in range(_ROUNDS):
        label = np.matmul(behaviours, centres.swapaxes(1, 2)).argmax(axis=2)
        own = weights[:, None, :] * (label[:, None, :] == np.arange(centres.shape[1])[:, None])
        sums = np.matmul(own.astype(np.float32), behaviours)
        lengths = np.linalg.norm(sums, axis=2, keepdims=True)
        centres = np.where(lengths > 1e-6, sums / np.maximum(lengths, 1e-30), centres).astype(np.float32)
    return centres


def sainte_lague(lists: Sequence[int], shares: Sequence[float]) -> list[Floats]:
    """When the items of each list have their turn, when the lists become one in proportion to their shares.

    The item at place p (from 0) of a list of share s has the turn (p + 1/2) / s: the method of Sainte-Lague, by which
    every first part of the whole is shared out as evenly as whole items allow.

    Args:
        lists: Their lengths.
        shares: Above 0.
    """
    return [(np.arange(length) + 0.5) / share for length, share in zip(lists, shares, strict=True)]
