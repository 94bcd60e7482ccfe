"""What filters mean, row by row in plain Python: the reference that the arrays are compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from recserve_client.contract.filters import (
    And,
    Contains,
    Eq,
    Exists,
    Filter,
    In,
    Ne,
    Not,
    Or,
    Prefix,
    Range,
    Within,
)


def matches(item: Mapping[str, Any], condition: Filter) -> bool:
    """Whether an item matches; Python compares int and float exactly."""
    if isinstance(condition, Not):
        return not matches(item, condition.of)
    if isinstance(condition, And):
        return all(matches(item, part) for part in condition.of)
    if isinstance(condition, Or):
        return any(matches(item, part) for part in condition.of)
    value = item.get(condition.attribute)
    if value is None:
        return False
    match condition:
        case Exists():
            return True
        case Eq():
            return equal(value, condition.value)
        case Ne():
            return not equal(value, condition.value)
        case In():
            return any(equal(value, other) for other in condition.values)
        case Prefix():
            return isinstance(value, str) and value.startswith(condition.value)
        case Contains():
            return isinstance(value, list) and any(equal(part, condition.value) for part in value)
        case Range():
            return in_range(value, condition)
        case Within():
            return isinstance(value, list) and distance_m(value, condition) <= condition.radius_m


def kind(value: Any) -> str:
    return "number" if type(value) in (int, float) else type(value).__name__


def equal(one: Any, other: Any) -> bool:
    return kind(one) == kind(other) and bool(one == other)


def in_range(value: Any, leaf: Range) -> bool:
    bounds = [bound for bound in (leaf.gt, leaf.ge, leaf.lt, leaf.le) if bound is not None]
    if kind(value) != kind(bounds[0]):
        return False
    return (
        (leaf.gt is None or value > leaf.gt)
        and (leaf.ge is None or value >= leaf.ge)
        and (leaf.lt is None or value < leaf.lt)
        and (leaf.le is None or value <= leaf.le)
    )


def distance_m(place: Any, leaf: Within) -> float:
    """By the angle between two vectors: another formula than the one under test; infinite for what is no place."""
    if len(place) != 2 or any(kind(part) != "number" for part in place):
        return math.inf
    if not (-90 <= place[0] <= 90 and -180 <= place[1] <= 180):
        return math.inf
    (x, y, z), (a, b, c) = (_vector(*place), _vector(leaf.lat, leaf.lon))
    cross = math.hypot(y * c - z * b, z * a - x * c, x * b - y * a)
    return 6_371_008.8 * math.atan2(cross, x * a + y * b + z * c)


def _vector(lat_degrees: float, lon_degrees: float) -> tuple[float, float, float]:
    lat, lon = math.radians(lat_degrees), math.radians(lon_degrees)
    return math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)
