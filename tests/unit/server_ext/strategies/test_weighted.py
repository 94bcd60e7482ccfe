"""Weighted parts and contributions of a batch against a loop."""

from __future__ import annotations

import numpy as np
import pytest

from recserve_server_ext.common.arrays import Floats
from recserve_server_ext.strategies.base import Parts
from recserve_server_ext.strategies.parts.weighted import WeightedParts, weighted_sums

#: Items and behaviours of each query; two queries agree, one has no item.
SHAPES = [(3, 4), (2, 5), (3, 4), (0, 2)]


@pytest.mark.parametrize("by_item", [False, True])
def test_parts_are_scaled_by_the_factor_of_their_query_or_item(by_item: bool) -> None:
    """A component that does not count for a query leaves it out, or has other parts there."""
    random = np.random.default_rng(0)
    lengths = [items for items, _ in SHAPES]
    weighted, expected = WeightedParts(lengths), [dict[str, Floats]() for _ in SHAPES]
    for names, places in (("a", [0, 1, 2, 3]), ("bc", [1, 2]), ("d", [0, 3])):
        parts: list[Parts] = [
            {name: random.normal(size=lengths[place]) for name in names if place != 2 or name != "c"}
            for place in places
        ]
        factors = [random.normal(size=lengths[place]) if by_item else float(place + 1) for place in places]
        weighted.add(places, parts, factors)
        for place, own, factor in zip(places, parts, factors, strict=True):
            expected[place] |= {name: values * factor for name, values in own.items()}
    for own, total, of in zip(weighted.split(), weighted.totals(), expected, strict=True):
        assert list(own) == list(of)
        for name in of:
            np.testing.assert_array_equal(own[name], of[name])
        np.testing.assert_allclose(total, sum(of.values()), atol=1e-15)


@pytest.mark.parametrize("by_item", [False, True])
def test_contributions_add_up_by_query_whatever_was_told_of_it(by_item: bool) -> None:
    random = np.random.default_rng(1)
    told = [
        [(random.normal(size=shape), random.normal(size=shape[0]) if by_item else 0.5 + n) for n in range(count)]
        for shape, count in zip(SHAPES, (2, 3, 2, 1), strict=True)
    ]
    told[1] = []
    for shape, own, found in zip(SHAPES, told, weighted_sums(told, SHAPES), strict=True):
        expected = np.zeros(shape)
        for contributions, factor in own:
            expected += np.asarray(factor)[..., None] * contributions
        np.testing.assert_array_equal(found, expected)
