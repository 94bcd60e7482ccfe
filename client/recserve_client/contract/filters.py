"""Filters over the attributes of items: a small tree of typed conditions, as JSON and as structs.

::

    {"op": "and", "of": [{"op": "range", "attribute": "year", "ge": 1990},
                         {"op": "contains", "attribute": "genre", "value": "Drama"}]}

What each condition means is in docs/reference/filters.md; `recserve_client.where` writes and reads them as text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta, Struct

from recserve_client.contract.errors import ErrorKind
from recserve_client.contract.packing import RequestError, shown

Value: TypeAlias = str | bool | int | float
Bound: TypeAlias = str | int | float
Attribute = Annotated[str, Meta(min_length=1, max_length=256)]
AtLeastOne = Meta(min_length=1)


class _Condition(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False, tag_field="op"):
    """Common options of the conditions below."""


class Eq(_Condition, frozen=True, tag="eq"):
    """The attribute equals the value."""

    attribute: Attribute
    value: Value


class Ne(_Condition, frozen=True, tag="ne"):
    """The item has the attribute, with another value."""

    attribute: Attribute
    value: Value


class In(_Condition, frozen=True, tag="in"):
    """The attribute equals one of the values."""

    attribute: Attribute
    values: Annotated[list[Value], AtLeastOne]


class Range(_Condition, frozen=True, tag="range"):
    """The attribute lies within the bounds: numbers by size, strings by code point (so ISO dates work).

    Attributes:
        attribute: Its name.
        gt: Greater than; at most one of `gt` and `ge`.
        ge: Greater or equal.
        lt: Less than; at most one of `lt` and `le`.
        le: Less or equal.
    """

    attribute: Attribute
    gt: Bound | None = None
    ge: Bound | None = None
    lt: Bound | None = None
    le: Bound | None = None


class Exists(_Condition, frozen=True, tag="exists"):
    """The item has the attribute."""

    attribute: Attribute


class Contains(_Condition, frozen=True, tag="contains"):
    """The attribute is a list that holds the value."""

    attribute: Attribute
    value: Value


class Prefix(_Condition, frozen=True, tag="prefix"):
    """The attribute is a string that begins with the value; case matters."""

    attribute: Attribute
    value: str


class Within(_Condition, frozen=True, tag="within"):
    """The attribute is a place `[lat, lon]` at most so far from a point, along a great circle of a sphere.

    Attributes:
        attribute: Its name.
        lat: Latitude of the point in degrees.
        lon: Longitude of the point in degrees.
        radius_m: Metres.
    """

    attribute: Attribute
    lat: Annotated[float, Meta(ge=-90, le=90)]
    lon: Annotated[float, Meta(ge=-180, le=180)]
    radius_m: Annotated[float, Meta(ge=0)]


class And(_Condition, frozen=True, tag="and"):
    """All of the filters match."""

    of: Annotated[list[Filter], AtLeastOne]


class Or(_Condition, frozen=True, tag="or"):
    """One of the filters matches, or more."""

    of: Annotated[list[Filter], AtLeastOne]


class Not(_Condition, frozen=True, tag="not"):
    """The filter does not match."""

    of: Filter


Leaf: TypeAlias = Eq | Ne | In | Range | Exists | Contains | Prefix | Within
Filter: TypeAlias = Leaf | And | Or | Not


class FilterBounds(Struct, frozen=True, forbid_unknown_fields=True):
    """The largest filter that is accepted; anything beyond is refused as `too_large`.

    Attributes:
        depth: Conditions within conditions; a single one has depth 1.
        nodes: Conditions in all.
        values: Values of all its `in` together.
        string_chars: One string value.
    """

    depth: Annotated[int, Meta(ge=1, le=256)] = 32
    nodes: Annotated[int, Meta(ge=1)] = 256
    values: Annotated[int, Meta(ge=1)] = 10_000
    string_chars: Annotated[int, Meta(ge=1)] = 1024


BOUNDS: Final = FilterBounds()
_DECODER: Final = msgspec.json.Decoder(Filter)


def unpack_filter(raw: bytes, bounds: FilterBounds = BOUNDS) -> Filter:
    """Decode and check the JSON of a filter.

    Raises:
        RequestError: invalid_json, invalid_request, or too_large (the message names the limit).
    """
    try:
        found: Filter = _DECODER.decode(raw)
    except msgspec.ValidationError as error:
        raise RequestError(ErrorKind.INVALID_REQUEST, f"the filter: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(ErrorKind.INVALID_JSON, f"the filter: {error}; it begins {shown(raw[:40])}") from None
    except RecursionError:
        # Nesting beyond what the decoder's stack holds: hundreds of levels, more than any bound allows.
        raise _too_large("is nested too deeply to be read", "depth", bounds.depth) from None
    check_filter(found, bounds)
    return found


def check_filter(condition: Filter, bounds: FilterBounds = BOUNDS) -> None:
    """Check what the types cannot say: size, bounds of ranges, finite numbers. Needs no recursion.

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
    """The conditions on attributes of a checked filter, from left to right."""
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
    found = [leaf.lat, leaf.lon, leaf.radius_m] if isinstance(leaf, Within) else leaf_values(leaf)
    # A list beyond the bound is refused by its length, so nobody need look at each of its values.
    for value in found[: bounds.values]:
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
