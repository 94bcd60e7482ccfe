"""Attribute columns: the attributes of many items as Arrow arrays that filters are evaluated on, one for each kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recserve_client.contract import ErrorKind, RequestError, nearest, shown
from recserve_server_ext.index.fields import PART_OF, PRESENT, ItemFields, typed_array

STRING: Final = "string"
NUMBER: Final = "number"
BOOLEAN: Final = "boolean"
LIST: Final = "list"
PLACE: Final = "place [lat, lon]"


def list_of(kind: str) -> str:
    """The kind of a list of values of this kind."""
    return f"{LIST} of {kind}"


@dataclass(frozen=True, eq=False)
class Lists:
    """The lists of a column.

    Attributes:
        array: [rows] the lists as they are stored; those that are null hold no elements.
        elements: The elements of all rows, concatenated.
    """

    array: pa.LargeListArray
    elements: Column

    @property
    def offsets(self) -> NDArray[np.int64]:
        """[rows + 1] row r holds the elements offsets[r] to offsets[r + 1] - 1."""
        offsets: NDArray[np.int64] = self.array.offsets.to_numpy()
        return offsets


@dataclass(frozen=True, eq=False)
class Column:
    """One attribute of all rows, with an array for each kind of value; `None` where no row has a value of that kind.

    An array is null where a row has no value, or one of another kind.

    Attributes:
        present: [rows] whether the row has a value; never null.
        strings: [rows] strings, as codes of a dictionary that is sorted by code point.
        integers: [rows] 64-bit integers.
        floats: [rows] finite floats.
        booleans: [rows] booleans; they do not count as numbers.
        lists: Lists.
        places: [rows, 2] latitude and longitude in radians; NaN where the value is not a list of two such numbers.
        kinds: Names of the kinds that occur.
    """

    present: pa.BooleanArray
    strings: pa.DictionaryArray | None = None
    integers: pa.Array | None = None
    floats: pa.Array | None = None
    booleans: pa.Array | None = None
    lists: Lists | None = None
    places: NDArray[np.float64] | None = None
    kinds: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        parts = {
            STRING: self.strings,
            NUMBER: self.floats if self.integers is None else self.integers,
            BOOLEAN: self.booleans,
            LIST: self.lists,
            PLACE: self.places,
        }
        kinds = {kind for kind, part in parts.items() if part is not None}
        if self.lists is not None:
            kinds |= {list_of(kind) for kind in self.lists.elements.kinds}
        object.__setattr__(self, "kinds", frozenset(kinds))

    @cached_property
    def largest(self) -> float:
        """The largest number, at least 0."""
        parts = [part for part in (self.integers, self.floats) if part is not None]
        return max([0.0, *(float(pc.max(part).as_py()) for part in parts)])


class AttributeColumns:
    """The attributes of some items; a column is built when it is first needed.

    Attributes:
        rows: Number of items.
        names: Names of the attributes.
    """

    def __init__(self, rows: int, names: Sequence[str], make: Callable[[str], Column]) -> None:
        self.rows = rows
        self.names = tuple(names)
        self._make = make
        self._columns: dict[str, Column] = {}

    @classmethod
    def of_fields(cls, fields: ItemFields, rows: int) -> AttributeColumns:
        """Columns of a snapshot, which are not copied."""
        return cls(rows, fields.names, lambda name: column_of_array(fields.column(name)))

    @classmethod
    def of_items(cls, items: Sequence[Mapping[str, Any]]) -> AttributeColumns:
        """Columns of a few items that are not in the snapshot, from their fields by name."""

        def make(name: str) -> Column:
            return column_of_array(typed_array([item.get(name) for item in items]))

        return cls(len(items), tuple(dict.fromkeys(chain.from_iterable(items))), make)

    def column(self, name: str) -> Column:
        """The column of an attribute; empty where no item has it."""
        column = self._columns.get(name)
        if column is None:
            new = self._make(name) if name in self.names else Column(pa.array(np.zeros(self.rows, np.bool_)))
            column = self._columns.setdefault(name, new)
        return column


def kinds_of(name: str, known: Sequence[AttributeColumns]) -> frozenset[str]:
    """The kinds of value that an attribute has in any of these columns; empty where no item has a value.

    Raises:
        RequestError: unknown_field: no item has the attribute; the nearest name is suggested.
    """
    holders = [columns for columns in known if name in columns.names]
    if not holders:
        names = tuple(other for columns in known for other in columns.names)
        raise RequestError(
            ErrorKind.UNKNOWN_FIELD, f"the catalogue has no attribute {shown(name)}{nearest(name, names)}"
        )
    return frozenset[str]().union(*(columns.column(name).kinds for columns in holders))


def column_of_array(array: pa.Array) -> Column:
    """The column of an array of `typed_array`, which is not copied."""
    kind = array.type
    if pa.types.is_struct(kind):
        parts = {field.name: array.field(field.name) for field in kind}
        present = parts[PRESENT]
    else:
        of = next(of for of, is_it in _TYPES.items() if is_it(kind))
        parts, present = {PART_OF[of]: array}, array.is_valid()
    held = {name: parts[name] for name in PART_OF.values() if name in parts and parts[name].null_count < len(array)}
    if (array := held.pop("lists", None)) is None:
        return Column(present, **held)
    lists = Lists(array, column_of_array(array.values))
    return Column(present, **held, lists=lists, places=_places(lists))


#: How an array of the values of a type is told.
_TYPES: Final = {
    str: pa.types.is_dictionary,
    int: pa.types.is_integer,
    float: pa.types.is_floating,
    bool: pa.types.is_boolean,
    list: pa.types.is_large_list,
}


def _places(lists: Lists) -> NDArray[np.float64] | None:
    """Latitude and longitude of the lists that are two numbers within -90..90 and -180..180."""
    if NUMBER not in lists.elements.kinds:
        return None
    pairs = np.flatnonzero(np.diff(lists.offsets) == 2)
    numbers = np.full(len(lists.elements.present), np.nan)
    for part in (lists.elements.integers, lists.elements.floats):
        if part is not None:
            valid = part.is_valid().to_numpy(zero_copy_only=False)
            numbers[valid] = part.drop_null().to_numpy()
    degrees = numbers[lists.offsets[pairs][:, None] + np.arange(2)]
    is_place = (np.abs(degrees) <= (90, 180)).all(axis=1)
    pairs, degrees = pairs[is_place], degrees[is_place]
    if not len(pairs):
        return None
    places = np.full((len(lists.offsets) - 1, 2), np.nan)
    places[pairs] = np.radians(degrees)
    return places
