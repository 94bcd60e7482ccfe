"""Weighted parts and contributions of a batch, in few arrays: each is small, and there are many."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from recserve_server_ext.common.arrays import Floats
from recserve_server_ext.strategies.base import Parts


def scaled_parts(parts: Sequence[Parts], factors: Sequence[float | Floats]) -> list[Parts]:
    """The parts of each query times its factor, all in one array."""
    values = [of for own in parts for of in own.values()]
    if not values:
        return [{} for _ in parts]
    of_values = [factor for own, factor in zip(parts, factors, strict=True) for _ in own]
    lengths = [len(of) for of in values]
    flat, ends = np.concatenate(values) * _each(of_values, lengths), iter(np.cumsum(lengths).tolist())
    return [{name: flat[(end := next(ends)) - len(of) : end] for name, of in own.items()} for own in parts]


def weighted_sums(
    told: Sequence[Sequence[tuple[Floats, float | Floats]]], shapes: Sequence[tuple[int, int]]
) -> list[Floats]:
    """[queries] the sum of contributions times factors of each query.

    Args:
        told: [queries] contributions [items, behaviours] with a factor, or with one of each item.
        shapes: [queries] items and behaviours; queries that agree in them are one array.
    """
    sums = [np.zeros(shape) for shape in shapes]
    groups: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    for place, (own, shape) in enumerate(zip(told, shapes, strict=True)):
        groups[*shape, len(own)].append(place)
    for (items, behaviours, count), places in groups.items():
        if not count:
            continue
        values = np.concatenate([of for place in places for of, _ in told[place]])
        factors = [factor for place in places for _, factor in told[place]]
        values *= _each(factors, items)[:, None]
        for place, own in zip(places, values.reshape(len(places), count, items, behaviours).sum(axis=1), strict=True):
            sums[place] = own
    return sums


def _each(factors: Sequence[Any], lengths: int | Sequence[int]) -> Floats:
    """[values] the factor of each value, given one of each array or one of each of its values."""
    found: Floats = np.repeat(factors, lengths) if np.ndim(factors[0]) == 0 else np.concatenate(factors)
    return found
