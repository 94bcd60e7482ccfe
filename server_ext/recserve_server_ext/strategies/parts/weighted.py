"""Weighted parts and contributions of a batch, in few arrays: each is small, and there are many."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from recserve_server_ext.common.arrays import Floats, Ints
from recserve_server_ext.strategies.base import Parts


class WeightedParts:
    """Parts of the scores of the rows of all queries of a batch, in one array for each name."""

    def __init__(self, lengths: Sequence[int]) -> None:
        """
        Args:
            lengths: [queries] rows of each.
        """
        self._lengths = np.array(lengths, np.int64)
        self._ends = np.cumsum([0, *lengths])
        self._values: dict[str, Floats] = {}
        self._names: list[list[str]] = [[] for _ in lengths]

    def add(self, places: Sequence[int], parts: Sequence[Parts], factors: Sequence[float | Floats]) -> None:
        """Add the parts of the queries at some places, times a factor or one of each row."""
        for name in dict.fromkeys(name for own in parts for name in own):
            having = [n for n, own in enumerate(parts) if name in own]
            of_queries = [places[n] for n in having]
            values = np.concatenate([parts[n][name] for n in having])
            values = values * _each([factors[n] for n in having], self._lengths[of_queries])
            if len(having) < len(self._lengths):
                found = self._values.get(name, np.zeros(self._ends[-1]))
                found[np.isin(np.repeat(np.arange(len(self._lengths)), self._lengths), of_queries)] = values
                values = found
            self._values[name] = values
            for place in of_queries:
                self._names[place].append(name)

    def totals(self) -> list[Floats]:
        """[queries] the sums of the parts of each."""
        total = sum(self._values.values(), start=np.zeros(self._ends[-1]))
        return split(total, self._lengths.tolist())

    def split(self) -> list[Parts]:
        """[queries] the parts of each."""
        bounds = self._ends.tolist()
        return [
            {name: self._values[name][start:end] for name in names}
            for names, (start, end) in zip(self._names, pairwise(bounds), strict=True)
        ]


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


def split(values: Floats, lengths: Sequence[int]) -> list[Floats]:
    """The values of each of the arrays that were joined, given their lengths."""
    bounds = np.cumsum([0, *lengths]).tolist()
    return [values[start:end] for start, end in pairwise(bounds)]


def _each(factors: Sequence[Any], lengths: int | Ints) -> Floats:
    """[values] the factor of each value, given one of each array or one of each of its values."""
    found: Floats = np.repeat(factors, lengths) if np.ndim(factors[0]) == 0 else np.concatenate(factors)
    return found
