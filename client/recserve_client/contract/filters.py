"""Filters on the attributes of items: a tree of typed conditions, as JSON and as structs.

::

    {"op": "and", "of": [{"op": "range", "attribute": "year", "ge": 1990},
                         {"op": "contains", "attribute": "genre", "value": "Drama"}]}

docs/reference/filters.md defines each condition; `recserve_client.where` reads and writes filters as text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Final, TypeAlias

from msgspec import Meta, Struct

from recserve_client.contract.errors import ErrorKind
from recserve_client.contract.packing import RequestError, shown

Value: TypeAlias = str | bool | int | float
Bound: TypeAlias = str | int | float
Attribute = Annotated[str, Meta(min_length=1, max_length=256)]
AtLeastOne = Meta(min_length=1)


class _Condition(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False, tag_field="op"):
    """Base of all conditions."""


class _OnAttribute(_Condition, frozen=True):
    """Base of the conditions on an attribute (the leaves)."""

    attribute: Attribute


class Eq(_OnAttribute, frozen=True, tag="eq"):
    """The attribute equals the value."""

    value: Value


class Ne(_OnAttribute, frozen=True, tag="ne"):
    """The attribute exists and differs from the value."""

    value: Value


class In(_OnAttribute, frozen=True, tag="in"):
    """The attribute equals one of the values."""

    values: Annotated[list[Value], AtLeastOne]


class Range(_OnAttribute, frozen=True, tag="range"):
    """The attribute lies within bounds: numbers by value, strings by code point (so ISO dates work).

    Attributes:
        attribute: Name of the attribute.
        gt: Greater than; at most one of `gt` and `ge`.
        ge: Greater than or equal to.
        lt: Less than; at most one of `lt` and `le`.
        le: Less than or equal to.
    """

    gt: Bound | None = None
    ge: Bound | None = None
    lt: Bound | None = None
    le: Bound | None = None


class Exists(_OnAttribute, frozen=True, tag="exists"):
    """The item has the attribute."""


class Contains(_OnAttribute, frozen=True, tag="contains"):
    """The attribute is a list that contains the value."""

    value: Value


class Prefix(_OnAttribute, frozen=True, tag="prefix"):
    """The attribute is a string that begins with the value; case matters."""

    value: str


class Within(_OnAttribute, frozen=True, tag="within"):
    """The attribute is a place `[lat, lon]` within a distance of a point, along a great circle of a sphere.

    Attributes:
        attribute: Name of the attribute.
        lat: Latitude of the point in degrees.
        lon: Longitude of the point in degrees.
        radius_m: Largest distance in metres.
    """

    lat: Annotated[float, Meta(ge=-90, le=90)]
    lon: Annotated[float, Meta(ge=-180, le=180)]
    radius_m: Annotated[float, Meta(ge=0)]


class And(_Condition, frozen=True, tag="and"):
    """All of the filters match."""

    of: Annotated[list[Filter], AtLeastOne]


class Or(_Condition, frozen=True, tag="or"):
    """At least one of the filters matches."""

    of: Annotated[list[Filter], AtLeastOne]


class Not(_Condition, frozen=True, tag="not"):
    """The filter does not match."""

    of: Filter


Leaf: TypeAlias = Eq | Ne | In | Range | Exists | Contains | Prefix | Within
Filter: TypeAlias = Leaf | And | Or | Not


class FilterBounds(Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of a filter; a larger one is refused as `too_large`.

    Attributes:
        depth: Nesting depth; a single condition has depth 1.
        nodes: Number of conditions.
        values: Number of values of all its `in` together.
        string_chars: Characters of one string value.
    """

    depth: Annotated[int, Meta(ge=1, le=256)] = 32
    nodes: Annotated[int, Meta(ge=1)] = 256
    values: Annotated[int, Meta(ge=1)] = 10_000
    string_chars: Annotated[int, Meta(ge=1)] = 1024


BOUNDS: Final = FilterBounds()


def check_filter(condition: Filter, bounds: FilterBounds = BOUNDS) -> None:
    """Check what the types cannot express: size, bounds of ranges, finite numbers. Does not recurse.

    Raises:
        RequestError: too_large (the message names the limit) or invalid_request.
    """
    nodes = values = 0
    waiting = [(condition, 1)]
    while waiting:
        node, depth = waiting.pop()
        nodes += 1
        if depth > bounds.depth:
            raise _too_large(f"is nested {depth} deep or more", "depth", bounds.depth)
        if isinstance(node, Not):
            waiting.append((node.of, depth + 1))
        elif isinstance(node, And | Or):
            waiting.extend((part, depth + 1) for part in node.of)
        else:
            values += len(node.values) if isinstance(node, In) else 0
            _check_leaf(node, bounds)
        if nodes + len(waiting) > bounds.nodes:
            raise _too_large(f"has {nodes + len(waiting):,} conditions or more", "nodes", bounds.nodes)
        if values > bounds.values:
            raise _too_large(f"lists {values:,} values or more", "values", bounds.values)


def leaves(condition: Filter) -> Iterator[Leaf]:
    """The conditions on attributes (the leaves) of a checked filter, from left to right."""
    if isinstance(condition, Not):
        yield from leaves(condition.of)
    elif isinstance(condition, And | Or):
        for part in condition.of:
            yield from leaves(part)
    else:
        yield condition


def leaf_values(leaf: Leaf) -> list[Value]:
    """The values that a condition compares the attribute with."""
    if isinstance(leaf, In):
        return leaf.values
    if isinstance(leaf, Range):
        return [bound for bound in (leaf.gt, leaf.ge, leaf.lt, leaf.le) if bound is not None]
    if isinstance(leaf, Eq | Ne | Contains | Prefix):
        return [leaf.value]
    return []


def _check_leaf(leaf: Leaf, bounds: FilterBounds) -> None:
    if isinstance(leaf, Range):
        _check_range(leaf)
    values = [leaf.lat, leaf.lon, leaf.radius_m] if isinstance(leaf, Within) else leaf_values(leaf)
    # A list beyond the bound is refused by its length, so its other values are not checked.
    for value in values[: bounds.values]:
        if isinstance(value, str) and len(value) > bounds.string_chars:
            what = f"has a string of {len(value):,} characters, {shown(value)}"
            raise _too_large(what, "string_chars", bounds.string_chars)
        if isinstance(value, float) and not math.isfinite(value):
            raise _invalid(leaf, f"has the value {value}: numbers must be finite")


def _check_range(leaf: Range) -> None:
    if leaf.gt is leaf.ge is leaf.lt is leaf.le is None:
        raise _invalid(leaf, "has no bound: give gt or ge, or lt or le, or one of each")
    for one, other in (("gt", "ge"), ("lt", "le")):
        if getattr(leaf, one) is not None and getattr(leaf, other) is not None:
            raise _invalid(leaf, f"has both {one} and {other}: give one of them")
    if len({isinstance(bound, str) for bound in leaf_values(leaf)}) > 1:
        raise _invalid(leaf, "has a string and a number as bounds: give two of a kind")


def _invalid(leaf: Leaf, what: str) -> RequestError:
    name = str(leaf.__struct_config__.tag)
    return RequestError(ErrorKind.INVALID_REQUEST, f"the filter's {name} on {shown(leaf.attribute)} {what}")


def _too_large(what: str, limit: str, allowed: int) -> RequestError:
    return RequestError(ErrorKind.TOO_LARGE, f"the filter {what}; limits.filter.{limit} allows {allowed:,}")
