"""Weighted parts and contributions of a batch against a loop."""

from __future__ import annotations

import numpy as np
import pytest

from recserve_server_ext.strategies.base import Parts
from recserve_server_ext.strategies.parts.weighted import scaled_parts, weighted_sums

#: Items and behaviours of each query; two queries agree, one has no item.
SHAPES = [(3, 4), (2, 5), (3, 4), (0, 2)]


@pytest.mark.parametrize("by_item", [False, True])
def test_parts_are_scaled_by_the_factor_of_their_query_or_item(by_item: bool) -> None:
    random = np.random.default_rng(0)
    parts: list[Parts] = [{name: random.normal(size=items) for name in "ab"[: 1 + items % 2]} for items, _ in SHAPES]
    parts[1] = {}
    factors = [random.normal(size=items) if by_item else float(items + 1) for items, _ in SHAPES]
    scaled = scaled_parts(parts, factors)
    for own, before, factor in zip(scaled, parts, factors, strict=True):
        assert list(own) == list(before)
        for name in before:
            np.testing.assert_array_equal(own[name], before[name] * factor)
    assert scaled_parts([{}, {}], [1.0, 2.0]) == [{}, {}]


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
