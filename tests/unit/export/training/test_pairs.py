"""Pairs of items: the shares of a log against counting by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from recserve_export.training.pairs import Pairs
from recserve_server_ext.common.arrays import Floats
from support.training_logs import log_from

#: User 0 has items 0, 1, 2, 0; user 1 items 3, 1; user 2 item 4 alone.
USER, ITEM = np.array([0, 0, 0, 0, 1, 1, 2]), np.array([0, 1, 2, 0, 3, 1, 4])
ALL = np.arange(5)


def near(apart: int) -> Floats:
    found: Floats = np.zeros((5, 5))
    for one, other in itertools.combinations(range(7), 2):
        if other - one <= apart and USER[one] == USER[other] and ITEM[one] != ITEM[other]:
            found[ITEM[one], ITEM[other]] += 1
            found[ITEM[other], ITEM[one]] += 1
    found /= found.sum()
    return found


def anywhere() -> Floats:
    found: Floats = np.zeros((5, 5))
    for user in range(2):
        items = np.unique(ITEM[np.equal(USER, user)])
        for item in items:
            found[item, items[items != item]] += 1 / (len(items) - 1)
    found /= found.sum()
    return found


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("apart", [1, 3])
def test_shares_are_those_of_near_pairs_and_of_pairs_anywhere_in_a_history(share: float, apart: int) -> None:
    pairs = Pairs(log_from(USER, ITEM, 3, 5), ALL, apart)
    expected = (1 - share) * near(apart) + share * anywhere()
    np.testing.assert_allclose(pairs.shares(ALL, share), expected, atol=1e-6)
    some = np.array([3, 1])
    np.testing.assert_allclose(pairs.shares(some, share), expected[np.ix_(some, some)], atol=1e-6)


def test_a_user_with_many_items_weighs_as_much_as_many_interactions() -> None:
    user, item = np.repeat([0, 1], [40, 4]), np.concatenate([np.arange(40), 40 + np.arange(4)])
    shares = Pairs(log_from(user, item, 2, 44), np.arange(44), 3).shares(np.arange(44), 1.0)
    np.testing.assert_allclose(shares.sum(axis=1), 1 / 44, atol=1e-6)
