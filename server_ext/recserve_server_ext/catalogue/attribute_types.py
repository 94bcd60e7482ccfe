"""One type for each attribute of a catalogue: the first one stays while an available item has it.

A filter compares values of one type: an item with another one would drop out of every answer unnoticed. The types are
kept in a small table with the number of available items that have them, so a change reads only what it names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from recserve_client.contract import shown
from recserve_server_ext.catalogue.tables import attribute_types

_CHUNK: Final = 1000


class Conflict(NamedTuple):
    """An attribute that would get another type.

    Attributes:
        name: Of the attribute.
        value: That was to come.
        type: Of that.
        held: Type that available items have there.
        items: How many have it.
    """

    name: str
    value: Any
    type: str
    held: str
    items: int

    def __str__(self) -> str:
        has = "item has" if self.items == 1 else "items have"
        return (
            f"$.attributes.{self.name} is {shown(self.value)}, a {self.type}; {self.items:,} available {has} a "
            f"{self.held} there. An attribute has one type in the whole catalogue: give it another name, or send a "
            f"{self.held}"
        )


_NAMES: Final[dict[type, str]] = {bool: "boolean", int: "number", float: "number", str: "string"}
#: What no check lets in, for a store that somebody else wrote.
_OTHER: Final = "value of another kind"


def type_of(value: Any) -> str:
    """The type of an attribute's value; integers and floats are both numbers, a list of numbers is a place."""
    if type(value) is list:
        return "list of strings" if not value or type(value[0]) is str else "place"
    return _NAMES.get(type(value), _OTHER)


class AttributeTypes:
    """The types of some attributes while a change is decided item by item; null has none."""

    def __init__(self) -> None:
        """No item has any attribute."""
        self._counts: dict[str, dict[str, int]] = {}
        self._changed: set[str] = set()

    @classmethod
    def read(cls, connection: sa.Connection, names: Iterable[str]) -> AttributeTypes:
        """Those of the attributes with these names, in a transaction that writes."""
        types = cls()
        columns = (attribute_types.c.name, attribute_types.c.type, attribute_types.c.holders)
        for chunk in _chunks(names):
            query = sa.select(*columns).where(attribute_types.c.name.in_(chunk))
            for name, type_, holders in connection.execute(query):
                types._counts.setdefault(name, {})[type_] = holders
        return types

    def conflict(self, attributes: Mapping[str, Any]) -> Conflict | None:
        """The first attribute of an item that has another type than available items have there; none = all fit."""
        for name, value in attributes.items():
            held = self._counts.get(name) if value is not None else None
            if held and type_of(value) not in held:
                ((other, items),) = held.items()
                return Conflict(name, value, type_of(value), other, items)
        return None

    def replace(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Count an item: the attributes that it had, and those it has, each empty where it is not available."""
        if list(before) == list(after) and _are_alike(before, after):
            return  # as most changes
        for name, value in before.items():
            self._add(name, value, -1)
        for name, value in after.items():
            self._add(name, value, 1)

    def write(self, connection: sa.Connection) -> None:
        """Store what has changed."""
        for chunk in _chunks(sorted(self._changed)):
            connection.execute(sa.delete(attribute_types).where(attribute_types.c.name.in_(chunk)))
            rows = [
                {"name": name, "type": type_, "holders": holders}
                for name in chunk
                for type_, holders in self._counts[name].items()
            ]
            if rows:
                connection.execute(sa.insert(attribute_types), rows)

    def _add(self, name: str, value: Any, number: int) -> None:
        if value is None:  # is no value
            return
        counts, type_ = self._counts.setdefault(name, {}), type_of(value)
        counts[type_] = counts.get(type_, 0) + number
        if not counts[type_]:
            del counts[type_]
        self._changed.add(name)


def _are_alike(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether the values are of the same types, one by one; the types in Python are faster to look at."""
    kinds = list(map(type, before.values()))
    return kinds == list(map(type, after.values())) and (
        list not in kinds or list(map(type_of, before.values())) == list(map(type_of, after.values()))
    )


def _chunks(names: Iterable[str]) -> Iterator[Sequence[str]]:
    rest = iter(names)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk
