"""One type for each attribute of the catalogue: the first type stays while an available item has the attribute.

A filter compares values of one type: an item with another type would drop out of every answer unnoticed. A small table
keeps each type and the number of available items that have it, so a change reads only the attributes it names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import sqlalchemy as sa

from recserve_client.contract import shown
from recserve_server_ext.catalogue.tables import attribute_types

_CHUNK: Final = 1000
_NAMES: Final[dict[type, str]] = {bool: "boolean", int: "number", float: "number", str: "string"}
#: A type that no check lets in; only a store that another program wrote can hold it.
_OTHER: Final = "value of another kind"


def type_of(value: Any) -> str:
    """The type of an attribute's value; integers and floats are both numbers, a list of numbers is a place."""
    if type(value) is list:
        return "list of strings" if not value or type(value[0]) is str else "place"
    return _NAMES.get(type(value), _OTHER)


class AttributeTypes:
    """The types of some attributes while a change is decided item by item; `None` has no type."""

    def __init__(self) -> None:
        """No item has any attribute."""
        self._held: dict[str, tuple[str, int]] = {}
        self._changed: set[str] = set()

    @classmethod
    def read(cls, connection: sa.Connection, names: Iterable[str]) -> AttributeTypes:
        """Read the types of the attributes with these names, in a transaction that writes."""
        types = cls()
        for chunk in _chunks(names):
            query = sa.select(attribute_types).where(attribute_types.c.name.in_(chunk))
            types._held |= {name: (type_, holders) for name, type_, holders in connection.execute(query)}
        return types

    def conflict(self, attributes: Mapping[str, Any]) -> str:
        """Why the first attribute with another type than available items have is refused; empty where all fit."""
        for name, value in attributes.items():
            type_, holders = self._held.get(name, ("", 0)) if value is not None else ("", 0)
            if holders and type_of(value) != type_:
                has = "item has" if holders == 1 else "items have"
                return (
                    f"$.attributes.{name} is {shown(value)}, a {type_of(value)}; {holders:,} available {has} a {type_} "
                    f"there. An attribute has one type in the whole catalogue: give it another name, or send a {type_}"
                )
        return ""

    def replace(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Count a changed item by its old and its new attributes; each empty where the item is not available."""
        if list(before) == list(after) and _are_alike(before, after):
            return  # as most changes are
        for name, value in before.items():
            self._add(name, value, -1)
        for name, value in after.items():
            self._add(name, value, 1)

    def write(self, connection: sa.Connection) -> None:
        """Store what has changed."""
        for chunk in _chunks(sorted(self._changed)):
            connection.execute(sa.delete(attribute_types).where(attribute_types.c.name.in_(chunk)))
            rows = [(name, *self._held[name]) for name in chunk if name in self._held]
            if rows:
                columns = attribute_types.c.keys()
                connection.execute(sa.insert(attribute_types), [dict(zip(columns, row, strict=True)) for row in rows])

    def _add(self, name: str, value: Any, number: int) -> None:
        if value is None:
            return
        type_, holders = self._held.pop(name, (type_of(value), 0))
        if holders + number:
            self._held[name] = type_, holders + number
        self._changed.add(name)


def _are_alike(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether the values have the same types one by one; comparing Python's types is faster and comes first."""
    kinds = list(map(type, before.values()))
    return kinds == list(map(type, after.values())) and (
        list not in kinds or list(map(type_of, before.values())) == list(map(type_of, after.values()))
    )


def _chunks(names: Iterable[str]) -> Iterator[Sequence[str]]:
    rest = iter(names)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk
