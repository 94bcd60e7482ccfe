"""Pairs of items that belong together: users had to do with both, shortly after each other."""

from __future__ import annotations

from functools import cached_property
from typing import Final

import numpy as np
from scipy import sparse

from recserve_export.training.base import TrainingLog
from recserve_server_ext.common.arrays import Ints, Vectors

#: Newest interactions of a user that count: nobody decides alone what belongs together.
OF_USER: Final = 500


class Pairs:
    """Pairs of items that users had to do with shortly after each other, in both directions.

    Attributes:
        count: Number of pairs.
        share: [items] share of each item among the items of all pairs.
    """

    def __init__(self, log: TrainingLog, items: Ints, apart: int) -> None:
        """
        Args:
            log: What users did.
            items: [items] positions in the log's items of those that count.
            apart: Interactions that the two of a pair may be apart.
        """
        place_of = np.full(len(log.items), -1, np.int64)
        place_of[items] = np.arange(len(items))
        ends = np.searchsorted(log.user, log.user, side="right")
        counted = (place_of[log.item] >= 0) & (ends - np.arange(len(log.item)) <= OF_USER)
        self._user, self._item = user, _ = log.user[counted], place_of[log.item[counted]]
        found = []
        for lag in range(1, apart + 1):
            later = np.arange(lag, len(user))
            is_pair = (user[later] == user[later - lag]) & (self._item[later] != self._item[later - lag])
            found.append(later[is_pair])
        self._later, self._ends = np.concatenate(found), np.cumsum([len(later) for later in found])
        self.count = len(self._later)
        self._earlier = self._later - np.repeat(np.arange(1, apart + 1), [len(later) for later in found])
        counts = np.bincount(self._item[self._later], minlength=len(items))
        counts += np.bincount(self._item[self._earlier], minlength=len(items))
        self.share = counts / max(1, counts.sum())

    @cached_property
    def counts(self) -> sparse.csr_array:
        """[items, items] float32: number of pairs of each two items, symmetric."""
        one, other = self._item[self._earlier], self._item[self._later]
        places = np.concatenate([one, other]), np.concatenate([other, one])
        shape = len(self.share), len(self.share)
        matrix = sparse.coo_array((np.ones(2 * self.count, np.float32), places), shape).tocsr()
        matrix.sum_duplicates()
        return matrix

    @cached_property
    def _histories(self) -> sparse.csc_array:
        """[users, items] 1 / sqrt(n - 1) where a user had to do with an item, and with n; without users of one item."""
        user, item = np.divmod(np.unique(self._user * len(self.share) + self._item), max(1, len(self.share)))
        length = np.bincount(user)
        several = length[user] > 1
        user, item = user[several], item[several]
        values = 1.0 / np.sqrt(length[user] - 1.0, dtype=np.float32)
        return sparse.csc_array((values, (user, item)), (len(length), len(self.share)))

    def shares(self, items: Ints, anywhere: float) -> Vectors:
        """[items, items] float32: share of each two of some items among all pairs of the log, 0 for an item and itself.

        Args:
            items: Places of the items.
            anywhere: Weight of the pairs of any two items of a user, however far apart. There, each of the n items
                of a user counts as much: 1 / (n - 1) for each of its pairs.
        """
        near = self.counts[items][:, items].toarray() * np.float32((1.0 - anywhere) / (2 * self.count))
        some = self._histories[:, items]
        far = (some.T @ some).toarray() * np.float32(anywhere / self._histories.nnz)
        np.fill_diagonal(far, 0.0)
        found: Vectors = near + far
        return found

    def drawn(self, random: np.random.Generator, n: int) -> tuple[Ints, Ints]:
        """Two lists of n items each, a pair in each place."""
        number = random.integers(self.count, size=n)
        return self._item[self._earlier[number]], self._item[self._later[number]]
