"""Filters -> expressions of Milvus over the attributes of an item; a filter without an exact translation is refused.

The attributes of an item are one JSON object under short keys, so that no name can break an expression. Values are
stored so that every translated condition means the same as in `recserve_server_ext.attributes.filters`:

- whole floats as integers, since Milvus compares the elements of a list by their own type;
- strings cut behind `STRING_CHARS` + 1 characters, which no condition with a shorter text can notice;
- NaN not at all; integers beyond 64 bits and objects as an empty object, which exists and equals nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from recserve_client.contract import ErrorKind, RequestError, shown
from recserve_client.contract.filters import (
    BOUNDS,
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
from recserve_server_ext.common.units import INT64

#: Names of the fields of a collection.
ROW: Final = "row"
ATTRIBUTES: Final = "attributes"
#: Most characters of a text in a condition.
STRING_CHARS: Final = BOUNDS.string_chars
#: Smaller integers are exact as 64-bit floats, and no larger one is rounded to one of them.
_EXACT: Final = 2**53
_NOTHING: Final = f"{ROW} < 0"
_LAST_BEFORE_SURROGATES, _FIRST_BEHIND, _LAST = 0xD7FF, 0xE000, 0x10FFFF


class AttributeKeys:
    """The short key of every attribute; `names` has the attributes in the order of their keys."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._keys = {name: f"a{number}" for number, name in enumerate(self.names)}

    def stored(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of an item as Milvus gets them."""
        values = ((self._keys[name], _stored(value)) for name, value in fields.items())
        return {key: value for key, value in values if value is not None}

    def expression(self, condition: Filter) -> str:
        """The expression of Milvus that is true for matching items, of a filter that passed `check_translatable`."""
        if isinstance(condition, Not):
            return f"not ({self.expression(condition.of)})"
        if isinstance(condition, And | Or):
            joint = " and " if isinstance(condition, And) else " or "
            return f"({joint.join(map(self.expression, condition.of))})"
        key = self._keys.get(condition.attribute)
        # Without a key only changed items have the attribute, and no item of the snapshot matches.
        return _NOTHING if key is None else _leaf(condition, f'{ATTRIBUTES}["{key}"]')


def check_translatable(condition: Filter) -> None:
    """Refuse a checked filter that Milvus cannot evaluate exactly, with RequestError(invalid_request)."""
    for leaf in leaves(condition):
        if isinstance(leaf, Within):
            raise _refused(leaf, "distances are not among its expressions")
        for value in leaf_values(leaf):
            if isinstance(value, str) and len(value) > STRING_CHARS:
                raise _refused(leaf, f"a text has {len(value):,} characters, {STRING_CHARS:,} at most can be compared")
            if isinstance(value, int | float) and not abs(value) < _EXACT:
                raise _refused(leaf, f"{shown(value)} is beyond 2^53, where its numbers are not exact")


def _refused(leaf: Leaf, why: str) -> RequestError:
    name = str(leaf.__struct_config__.tag)
    return RequestError(
        ErrorKind.INVALID_REQUEST,
        f"the filter's {name} on {shown(leaf.attribute)} cannot be evaluated by Milvus, which searches this catalogue: "
        f"{why}",
    )


def _stored(value: Any) -> Any:
    """A value as JSON that Milvus compares as we do; `None` for no value."""
    if isinstance(value, str):
        return value[: STRING_CHARS + 1]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            return None if math.isnan(value) else {}
        return int(value) if value.is_integer() and abs(value) < _EXACT else value
    if isinstance(value, int):
        return value if value in INT64 else {}
    if isinstance(value, list):
        return [part for part in map(_stored, value) if part is not None]
    return {}


def _leaf(leaf: Leaf, field: str) -> str:
    if isinstance(leaf, Exists):
        # In brackets, since `exists` would take all that follows.
        return f"(exists {field})"
    if isinstance(leaf, Eq):
        return _compared(field, "==", leaf.value)
    if isinstance(leaf, Ne):
        return f"((exists {field}) and not ({_compared(field, '==', leaf.value)}))"
    if isinstance(leaf, In):
        return _is_in(field, leaf.values)
    if isinstance(leaf, Prefix):
        return _begins_with(field, leaf.value)
    if isinstance(leaf, Contains):
        return f"json_contains({field}, {_element(leaf.value)})"
    assert isinstance(leaf, Range)
    bounds = ((">", leaf.gt), (">=", leaf.ge), ("<", leaf.lt), ("<=", leaf.le))
    return _all([_compared(field, sign, bound) for sign, bound in bounds if bound is not None])


def _all(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"({' and '.join(parts)})"


def _compared(field: str, sign: str, value: Value) -> str:
    # A float is compared with integers and floats alike.
    literal = _literal(value if isinstance(value, str | bool) else float(value))
    return f"{field} {sign} {literal}"


def _is_in(field: str, values: Sequence[Value]) -> str:
    texts = [value for value in values if isinstance(value, str)]
    numbers = [float(value) for value in values if not isinstance(value, str | bool)]
    found = [f"{field} in [{', '.join(map(_literal, some))}]" for some in (texts, numbers) if some]
    found += [_compared(field, "==", value) for value in dict.fromkeys(v for v in values if isinstance(v, bool))]
    return f"({' or '.join(found)})"


def _begins_with(field: str, prefix: str) -> str:
    """A range from the prefix to the next text of its length, since the wildcards of `like` cannot be escaped."""
    first = _compared(field, ">=", prefix)
    letters = prefix.rstrip(chr(_LAST))
    if not letters:
        return first
    last = ord(letters[-1])
    following = _FIRST_BEHIND if last == _LAST_BEFORE_SURROGATES else last + 1
    return _all([first, _compared(field, "<", letters[:-1] + chr(following))])


def _element(value: Value) -> str:
    """A literal with whole numbers as integers, as they are stored."""
    if isinstance(value, float) and value.is_integer():
        return _literal(int(value))
    return _literal(value)


def _literal(value: Value) -> str:
    # Milvus has the escapes of JSON, and texts stay in UTF-8.
    return repr(value) if type(value) in (int, float) else msgspec.json.encode(value).decode()
