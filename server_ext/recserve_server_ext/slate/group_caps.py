"""At most n items with the same value of an attribute, while slates of a batch of users are filled."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recserve_server_ext.attributes.values import GroupValues


class GroupCap:
    """Which candidates may still be chosen; every user's slate is counted for itself.

    Attributes:
        allowed: [users, n] whether none of the candidate's values has its n items yet.
    """

    def __init__(self, users: int, n: int, values: GroupValues, at_most: int) -> None:
        """Start with empty slates.

        Args:
            users: Number of users.
            n: Candidates of each.
            values: The values that each candidate counts for.
            at_most: Items of one value.
        """
        self._n = n
        self._at_most = at_most
        self._positions = values.positions
        keys = int(values.keys.max(initial=-1)) + 1
        # Counted are pairs of a user and a value, numbered without gaps.
        pairs, self._counted = np.unique(values.positions // n * keys + values.keys, return_inverse=True)
        self._counts = np.zeros(len(pairs), np.int64)
        self._flat = np.ones(users * n, np.bool_)
        self.allowed: NDArray[np.bool_] = self._flat.reshape(users, n)

    def take(self, picks: NDArray[np.int64]) -> None:
        """Count one candidate of each user.

        Args:
            picks: [users] candidate; -1 = none.
        """
        took = picks >= 0
        chosen = np.zeros(len(self._flat), np.bool_)
        chosen[(np.arange(len(picks)) * self._n + picks)[took]] = True
        counted = self._counted[chosen[self._positions]]
        self._counts += np.bincount(counted, minlength=len(self._counts))
        full = self._counts >= self._at_most
        self._flat[self._positions[full[self._counted]]] = False
