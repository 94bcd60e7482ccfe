"""Evaluates filters: masks over all rows, by array operations on attribute columns.

What a condition means for missing values and other kinds of value (docs/reference/filters.md has the table):

- Every condition on a missing value is false, `ne` too. Negations such as `not exists` match it.
- Integers and floats compare exactly. Booleans do not count as numbers.
- In an attribute with several kinds of value, a value of another kind than the condition's is not equal.
- A condition on a kind of value that the attribute never has is an error: see `check_attributes`.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import reduce
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recserve_client.contract import ErrorKind, RequestError, shown
from recserve_client.contract.filters import (
    And,
    Contains,
    Eq,
    Exists,
    Filter,
    In,
    Leaf,
    Ne,
    Not,
    Or,
    Prefix,
    Range,
    Value,
    Within,
    leaf_values,
    leaves,
)
from recserve_server_ext.attributes.columns import (
    BOOLEAN,
    LIST,
    NUMBER,
    PLACE,
    STRING,
    AttributeColumns,
    Column,
    kinds_of,
    list_of,
)
from recserve_server_ext.common.arrays import Mask
from recserve_server_ext.common.units import INT64

#: Mean radius R1 of the Earth (IUGG, Moritz 2000), metres.
EARTH_RADIUS_M: Final = 6_371_008.8
Number = int | float
#: Lists looked through at a time, as fresh memory for the rows of all their elements costs more than the rest.
_LISTS: Final = 131_072


def check_attributes(condition: Filter, known: Sequence[AttributeColumns]) -> None:
    """Refuse a filter on attributes that no item has, or on a kind of value that an attribute never has.

    Args:
        condition: A filter that passed `check_filter`.
        known: Columns of all items.

    Raises:
        RequestError: unknown_field (with the nearest name) or invalid_request (with the attribute's kinds).
    """
    for leaf in leaves(condition):
        kinds = kinds_of(leaf.attribute, known)
        # An attribute without any value has no kind to contradict.
        if kinds:
            _check_kinds(leaf, kinds)


def filter_mask(condition: Filter, columns: AttributeColumns) -> Mask:
    """[rows] the rows that match a filter that passed `check_filter` and `check_attributes`."""
    if isinstance(condition, Not):
        return ~filter_mask(condition.of, columns)
    if isinstance(condition, And | Or):
        combine = np.logical_and if isinstance(condition, And) else np.logical_or
        return reduce(combine, (filter_mask(part, columns) for part in condition.of))
    column = columns.column(condition.attribute)
    if isinstance(condition, Contains):
        return _contains(column, condition.value)
    if isinstance(condition, Within):
        return _within(column, condition)
    return np.asarray(_leaf_mask(condition, column).to_numpy(zero_copy_only=False), np.bool_)


def _check_kinds(leaf: Leaf, kinds: frozenset[str]) -> None:
    if isinstance(leaf, Exists):
        return
    if isinstance(leaf, Within):
        if PLACE not in kinds:
            raise _wrong_kind(leaf, kinds, "within needs a place [lat, lon] in degrees")
        return
    if isinstance(leaf, Contains) and LIST not in kinds:
        raise _wrong_kind(leaf, kinds, "contains needs a list; use eq")
    for value in leaf_values(leaf):
        kind = _kind_of(value)
        if isinstance(leaf, Contains):
            # Lists that are all empty have no kind of element to contradict.
            fits = list_of(kind) in kinds or not any(held.startswith(list_of("")) for held in kinds)
        else:
            fits = kind in kinds
        if not fits:
            advice = "; use contains" if LIST in kinds and not isinstance(leaf, Contains) else ""
            raise _wrong_kind(leaf, kinds, f"it cannot be compared with {shown(value)}, a {kind}{advice}")


def _wrong_kind(leaf: Leaf, kinds: frozenset[str], what: str) -> RequestError:
    # "list" is redundant where the kind of its elements is known.
    held = sorted(kinds - {LIST}) or [LIST]
    return RequestError(
        ErrorKind.INVALID_REQUEST, f"attribute {shown(leaf.attribute)} holds {' or '.join(held)} values: {what}"
    )


def _kind_of(value: Value) -> str:
    if isinstance(value, bool):
        return BOOLEAN
    return STRING if isinstance(value, str) else NUMBER


def _leaf_mask(leaf: Exists | Eq | Ne | In | Range | Prefix, column: Column) -> pa.BooleanArray:
    if isinstance(leaf, Exists):
        return column.present
    if isinstance(leaf, Eq):
        return _equal(column, leaf.value)
    if isinstance(leaf, Ne):
        return pc.and_not(column.present, _equal(column, leaf.value))
    if isinstance(leaf, In):
        return _is_in(column, leaf.values)
    if isinstance(leaf, Range):
        return _in_range(column, leaf)
    return _has_code(column, _codes(column, leaf.value, leaf.value, length=len(leaf.value)))


def _any(masks: list[pa.BooleanArray], column: Column) -> pa.BooleanArray:
    """Rows that match in one of the column's arrays; null does not match (Kleene's null and false is false)."""
    if not masks:
        return pa.array(np.zeros(len(column.present), np.bool_))
    return reduce(pc.or_, (pc.and_kleene(mask, mask.is_valid()) if mask.null_count else mask for mask in masks))


def _equal(column: Column, value: Value) -> pa.BooleanArray:
    if isinstance(value, bool):
        return _any([] if column.booleans is None else [pc.equal(column.booleans, value)], column)
    if isinstance(value, str):
        return _has_code(column, _codes(column, value, value))
    return _in_interval(column, exactly(value))


def _in_interval(column: Column, interval: Interval) -> pa.BooleanArray:
    masks = []
    if column.integers is not None and (integers := int64_bounds(interval)):
        masks.append(_between(column.integers, *integers))
    if column.floats is not None and (floats := float64_bounds(interval)):
        masks.append(_between(column.floats, *floats))
    return _any(masks, column)


def _between(part: pa.Array, low: int | float, high: int | float) -> pa.BooleanArray:
    if low == high:
        return pc.equal(part, pa.scalar(low, part.type))
    return pc.and_(pc.greater_equal(part, pa.scalar(low, part.type)), pc.less_equal(part, pa.scalar(high, part.type)))


def _in_range(column: Column, leaf: Range) -> pa.BooleanArray:
    low, high = (leaf.gt if leaf.ge is None else leaf.ge), (leaf.lt if leaf.le is None else leaf.le)
    low_open, high_open = leaf.ge is None, leaf.le is None
    if not isinstance(low, str) and not isinstance(high, str):
        return _in_interval(column, Interval(low, low_open, high, high_open))
    return _has_code(column, _codes(column, low, high, low_open=low_open, high_open=high_open))


def _codes(
    column: Column,
    low: Value | None,
    high: Value | None,
    *,
    low_open: bool = False,
    high_open: bool = False,
    length: int | None = None,
) -> range:
    """Codes of the strings within bounds, of which `None` is none; `length` compares only so many first code points."""
    if column.strings is None:
        return range(0)
    distinct = column.strings.dictionary
    first, end = 0, len(distinct)
    if low is not None:
        first = (bisect_right if low_open else bisect_left)(distinct, low, key=lambda one: one.as_py()[:length])
    if high is not None:
        end = (bisect_left if high_open else bisect_right)(distinct, high, key=lambda one: one.as_py()[:length])
    return range(first, end)


def _has_code(column: Column, codes: range) -> pa.BooleanArray:
    if column.strings is None or not codes:
        return _any([], column)
    return _any([_between(column.strings.indices, codes[0], codes[-1])], column)


def _is_in(column: Column, values: Sequence[Value]) -> pa.BooleanArray:
    numbers = [exactly(value) for value in values if not isinstance(value, str | bool)]
    if any(number.low == 0 for number in numbers):
        # 0.0 and -0.0 are equal, but not to Arrow's `is_in`.
        numbers += [exactly(0.0), exactly(-0.0)]
    codes = None if column.strings is None else column.strings.indices
    wanted: Sequence[tuple[pa.Array | None, Sequence[Value]]]
    wanted = (
        (codes, [code for value in values if isinstance(value, str) for code in _codes(column, value, value)]),
        (column.booleans, [value for value in values if isinstance(value, bool)]),
        (column.integers, [integers[0] for number in numbers if (integers := int64_bounds(number))]),
        (column.floats, [floats[0] for number in numbers if (floats := float64_bounds(number))]),
    )
    masks = [pc.is_in(part, pa.array(some, part.type)) for part, some in wanted if part is not None and some]
    return _any(masks, column)


def _contains(column: Column, value: Value) -> Mask:
    found = np.zeros(len(column.present), np.bool_)
    if column.lists is not None:
        equal, offsets = _equal(column.lists.elements, value), column.lists.offsets
        for start in range(0, len(found), _LISTS):
            end = min(start + _LISTS, len(found))
            of_part = equal.slice(offsets[start], offsets[end] - offsets[start])
            rows = pc.list_parent_indices(column.lists.array.slice(start, _LISTS)).filter(of_part)
            found[start:end][rows] = True
    return found


def _within(column: Column, leaf: Within) -> Mask:
    """Distance by the haversine formula (R. W. Sinnott, "Virtues of the Haversine", Sky and Telescope 68, 1984)."""
    if column.places is None:
        return np.zeros(len(column.present), np.bool_)
    lat, lon = np.radians([leaf.lat, leaf.lon])
    lats, lons = column.places.T
    half = np.sin((lats - lat) / 2) ** 2 + np.cos(lat) * np.cos(lats) * np.sin((lons - lon) / 2) ** 2
    # Near the antipode rounding may exceed 1. NaN stands for rows without a place: it is within no distance.
    distance_m = 2 * EARTH_RADIUS_M * np.arcsin(np.sqrt(np.minimum(half, 1.0)))
    return np.asarray(distance_m <= leaf.radius_m)


class Interval(NamedTuple):
    """An interval of numbers.

    Attributes:
        low: Lower bound; `None` for an unbounded interval.
        low_open: Whether the lower bound is excluded.
        high: Upper bound; `None` for an unbounded interval.
        high_open: Whether the upper bound is excluded.
    """

    low: Number | None
    low_open: bool
    high: Number | None
    high_open: bool


def exactly(value: Number) -> Interval:
    """The interval that holds one number."""
    return Interval(value, False, value, False)


def int64_bounds(interval: Interval) -> tuple[int, int] | None:
    """Smallest and largest int64 in an interval; `None` where it holds none."""
    low, high = INT64[0], INT64[-1]
    if interval.low is not None:
        low = max(low, math.floor(interval.low) + 1 if interval.low_open else math.ceil(interval.low))
    if interval.high is not None:
        high = min(high, math.ceil(interval.high) - 1 if interval.high_open else math.floor(interval.high))
    return (low, high) if low <= high else None


def float64_bounds(interval: Interval) -> tuple[float, float] | None:
    """Smallest and largest float64 in an interval; `None` where it holds none."""
    low = -math.inf if interval.low is None else _float_above(interval.low, is_open=interval.low_open)
    high = math.inf if interval.high is None else -_float_above(-interval.high, is_open=interval.high_open)
    return (low, high) if low <= high else None


def _float_above(value: Number, *, is_open: bool) -> float:
    """The smallest float64 that is at least `value`, or greater than it where the bound is open."""
    try:
        bound = float(value)
    except OverflowError:
        bound = math.inf if value > 0 else -math.inf
    # Python compares int and float exactly.
    if bound < value or (is_open and bound == value):
        bound = math.nextafter(bound, math.inf)
    return bound
