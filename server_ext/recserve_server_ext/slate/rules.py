"""Slate rules: minimum score, groups, diversity, pins, bury rules and quotas, over a batch of users.

The places are filled greedily, one after the other. A place takes the best remaining candidate that no group excludes:
by score, or by marginal relevance (`recserve_server_ext.slate.diversity`). The business rules can change that choice:

1. A buried candidate is taken only where no other one is left.
2. Where the quotas need as many items as places are left, the place goes to the best candidate of a quota.
3. A pinned candidate takes its place, whatever its score and groups. It counts for groups and quotas from the start.

With several groups or lists of values another choice might fill more places. But no candidate that is left out could
be added to a slate that is too short.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recserve_client.contract.slate_options import SlateOptions
from recserve_server_ext.attributes.values import GroupValues
from recserve_server_ext.common.arrays import Floats, Ints, Mask
from recserve_server_ext.slate.diversity import MarginalRelevance, best_of


class Candidates(NamedTuple):
    """Candidates of users with the same options, and what the rules need to know about them.

    Attributes:
        scores: [users, n] final scores, boosts included; -inf where there is no candidate. Ties keep this order.
        vectors: [users, n, dim] unit vectors; only needed to diversify.
        groups: [groups] values of each group's attribute.
        pinned: [pins, users] candidate of each pin; -1 where the user has none that may be placed.
        buried: [rules, users, n] candidates that match each bury rule.
        quotas: [rules, users, n] candidates that match each quota.
    """

    scores: Floats
    vectors: NDArray[np.float32] | None = None
    groups: Sequence[GroupValues] = ()
    pinned: Sequence[Ints] = ()
    buried: Sequence[Mask] = ()
    quotas: Sequence[Mask] = ()


class Slates(NamedTuple):
    """The chosen candidates.

    Attributes:
        picks: [users, places] candidates; -1 after the last one of a user.
        moved: [users, places, rules] whether a rule moved the item to this place.
        rules: Names of the rules: pins, bury rules, quotas.
    """

    picks: Ints
    moved: Mask
    rules: tuple[str, ...]

    def moved_by(self, user: int, place: int) -> list[str]:
        """Names of the rules that moved the item to a place."""
        return [self.rules[rule] for rule in np.flatnonzero(self.moved[user, place])]


def arrange(options: SlateOptions, candidates: Candidates, k: int) -> Slates:
    """The slates of users with the same options, which passed `check_slate_options`; min(k, n) places each."""
    scores = candidates.scores
    free = np.isfinite(scores)
    if options.min_score is not None:
        free &= scores >= options.min_score
    if not scores.shape[1] or not (
        options.diversify or options.groups or options.pins or options.bury or options.quotas
    ):
        order = np.argsort(np.where(free, -scores, np.inf), axis=1, kind="stable")[:, :k]
        picks = np.where(np.take_along_axis(free, order, axis=1), order, -1)
        return Slates(picks, np.zeros((*picks.shape, 0), np.bool_), ())
    return _Filling(options, candidates, free, k).slates()


class _Filling:
    """Fills the places of slates under the rules."""

    def __init__(self, options: SlateOptions, candidates: Candidates, free: Mask, k: int) -> None:
        users, n = free.shape
        self._users = np.arange(users)
        self._options = options
        self._candidates = candidates
        self._free = free
        self._relevance = None
        if options.diversify:
            assert candidates.vectors is not None, "diversify needs the candidates' vectors"
            strength = np.full(users, options.diversify)
            self._relevance = MarginalRelevance(candidates.scores, candidates.vectors, strength)
        self._caps = [
            GroupCap(users, n, values, group.at_most)
            for values, group in zip(candidates.groups, options.groups, strict=True)
        ]
        self._buried = np.logical_or.reduce(candidates.buried) if candidates.buried else None
        self._quotas = np.array(candidates.quotas, np.bool_).reshape(len(options.quotas), users, n)
        # [quotas, users] items that are still missing.
        self._missing = np.array([[quota.at_least] * users for quota in options.quotas], np.int64)
        self._open = np.full(users, k)  # places left
        # [users, n, rules]: by candidate, since a rule may pass over a candidate long before it is chosen.
        self._moved = np.zeros((users, n, len(options.pins) + len(options.bury) + len(options.quotas)), np.bool_)
        self._picks = np.full((users, k), -1, np.int64)

    def slates(self) -> Slates:
        """Fill the pinned places, then the others."""
        for number, (pin, pinned) in enumerate(zip(self._options.pins, self._candidates.pinned, strict=True)):
            self._take(pinned, pin.place - 1)
            self._moved[self._users, pinned, number] |= pinned >= 0
        for place in range(self._picks.shape[1]):
            choice = self._choose()
            if (choice < 0).all():
                break  # no user has a candidate left
            self._take(np.where(self._picks[:, place] < 0, choice, -1), place)
        # A pin may lie beyond the last candidate: close the gap before it.
        order = np.argsort(self._picks < 0, axis=1, kind="stable")[:, : self._free.shape[1]]
        picks = np.take_along_axis(self._picks, order, axis=1)
        moved = self._moved[self._users[:, None], picks] & (picks >= 0)[:, :, None]
        options = self._options
        names = [pin.name for pin in options.pins] + [rule.name for rule in options.bury]
        return Slates(picks, moved, (*names, *(quota.name for quota in options.quotas)))

    def _take(self, picks: Ints, place: int) -> None:
        """Give the place to one candidate of each user; -1 for a user without one."""
        took = picks >= 0
        self._picks[took, place] = picks[took]
        self._free[self._users[took], picks[took]] = False
        self._open -= took
        for cap in self._caps:
            cap.take(picks)
        if self._relevance is not None and self._open.any():
            self._relevance.take(picks)
        if len(self._missing):
            self._missing = np.maximum(self._missing - (self._quotas[:, self._users, picks] & took), 0)

    def _choose(self) -> Ints:
        """[users] the candidate for the next place."""
        values = self._candidates.scores if self._relevance is None else self._relevance.values()
        allowed = self._free
        for cap in self._caps:
            allowed = allowed & cap.allowed
        choice = best_of(values, allowed)
        not_buried = allowed
        if self._buried is not None:
            not_buried = allowed & ~self._buried
            choice = self._pass_over_buried(choice, best_of(values, not_buried))
        if self._missing.any():
            choice = self._serve_quotas(values, allowed, not_buried, choice)
        return choice

    def _pass_over_buried(self, best: Ints, best_not_buried: Ints) -> Ints:
        """[users] the best candidate that is not buried, where there is one; marks buried ones as moved."""
        passed = (best_not_buried >= 0) & (best != best_not_buried)
        users, items, first = self._users[passed], best[passed], len(self._options.pins)
        for number, buried in enumerate(self._candidates.buried, start=first):
            self._moved[users, items, number] |= buried[users, items]
        return np.where(best_not_buried >= 0, best_not_buried, best)

    def _serve_quotas(self, values: Floats, allowed: Mask, not_buried: Mask, choice: Ints) -> Ints:
        """[users] the best candidate of a quota, where the quotas need all places that are left."""
        # No place is reserved for items that no candidate can supply.
        missing = np.minimum(self._missing, (self._quotas & allowed).sum(axis=2))
        all_missing = missing.sum(axis=0)
        is_urgent = (all_missing > 0) & (all_missing >= self._open)
        if not is_urgent.any():
            return choice
        wanted = (self._quotas & (missing > 0)[:, :, None]).any(axis=0)
        served = best_of(values, not_buried & wanted)
        served = np.where(served < 0, best_of(values, allowed & wanted), served)
        moved = is_urgent & (served != choice)
        users, items, first = self._users[moved], served[moved], len(self._options.pins) + len(self._options.bury)
        for number, (quota, is_missing) in enumerate(zip(self._quotas, missing > 0, strict=True), start=first):
            self._moved[users, items, number] |= quota[users, items] & is_missing[users]
        return np.where(is_urgent, served, choice)


class GroupCap:
    """Limits the items of one attribute value in each user's slate.

    Attributes:
        allowed: [users, n] whether all values of the candidate are below the limit.
    """

    def __init__(self, users: int, n: int, values: GroupValues, at_most: int) -> None:
        """Start with empty slates.

        Args:
            users: Number of users.
            n: Candidates of each user.
            values: Attribute values of the candidates.
            at_most: Largest number of items with one value.
        """
        self._n = n
        self._at_most = at_most
        self._positions = values.positions
        keys = int(values.keys.max(initial=-1)) + 1
        # Pairs of a user and a value are counted, numbered without gaps.
        pairs, self._counted = np.unique(values.positions // n * keys + values.keys, return_inverse=True)
        self._counts = np.zeros(len(pairs), np.int64)
        self._flat = np.ones(users * n, np.bool_)
        self.allowed: NDArray[np.bool_] = self._flat.reshape(users, n)

    def take(self, picks: NDArray[np.int64]) -> None:
        """Count one chosen candidate of each user: picks [users], -1 for a user without one."""
        took = picks >= 0
        chosen = np.zeros(len(self._flat), np.bool_)
        chosen[(np.arange(len(picks)) * self._n + picks)[took]] = True
        counted = self._counted[chosen[self._positions]]
        self._counts += np.bincount(counted, minlength=len(self._counts))
        full = self._counts >= self._at_most
        self._flat[self._positions[full[self._counted]]] = False
