"""Bounds of any number type -> closed intervals of int64 and of float64 that hold exactly the same numbers.

Comparing an int64 column with a float (or the other way round) would round one of them: 2**53 + 1 would equal 2.0**53.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

Number = int | float
_INT64: Final = (-(2**63), 2**63 - 1)


class Interval(NamedTuple):
    """Numbers between two bounds; none = no bound on that side.

    Attributes:
        low: Lower bound.
        low_open: Whether it is itself outside.
        high: Upper bound.
        high_open: Whether it is itself outside.
    """

    low: Number | None
    low_open: bool
    high: Number | None
    high_open: bool


def exactly(value: Number) -> Interval:
    """The interval of one number."""
    return Interval(value, False, value, False)


def int64_bounds(interval: Interval) -> tuple[int, int] | None:
    """Smallest and largest int64 inside; none where there is none."""
    low, high = _INT64
    if interval.low is not None:
        low = max(low, math.floor(interval.low) + 1 if interval.low_open else math.ceil(interval.low))
    if interval.high is not None:
        high = min(high, math.ceil(interval.high) - 1 if interval.high_open else math.floor(interval.high))
    return (low, high) if low <= high else None


def float64_bounds(interval: Interval) -> tuple[float, float] | None:
    """Smallest and largest float64 inside; none where there is none."""
    low = -math.inf if interval.low is None else _float_above(interval.low, is_open=interval.low_open)
    high = math.inf if interval.high is None else -_float_above(-interval.high, is_open=interval.high_open)
    return (low, high) if low <= high else None


def _float_above(value: Number, *, is_open: bool) -> float:
    """The smallest float64 not below `value`, or above it where the bound is open."""
    try:
        found = float(value)
    except OverflowError:
        found = math.inf if value > 0 else -math.inf
    # Python compares int and float exactly.
    if found < value or (is_open and found == value):
        found = math.nextafter(found, math.inf)
    return found
