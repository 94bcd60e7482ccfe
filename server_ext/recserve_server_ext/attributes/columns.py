"""Attribute columns: the attributes of many items as Arrow arrays that filters are evaluated on, one for each kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recserve_client.contract import ErrorKind, RequestError, nearest, shown
from recserve_server_ext.common.units import INT64
from recserve_server_ext.index.fields import ItemFields

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
        offsets: [rows + 1] int64; row r holds the elements offsets[r] to offsets[r + 1] - 1.
        elements: The elements of all rows, concatenated.
    """

    offsets: NDArray[np.int64]
    elements: Column


@dataclass(frozen=True, eq=False)
class Column:
    """One attribute of all rows, with an array for each kind of value; `None` where no row has a value of that kind.

    An array is null where a row has no value, or one of another kind.

    Attributes:
        present: [rows] whether the row has a value; never null.
        strings: [rows] strings.
        integers: [rows] 64-bit integers.
        floats: [rows] finite floats.
        booleans: [rows] booleans; they do not count as numbers.
        lists: Lists.
        places: [rows, 2] latitude and longitude in radians; NaN where the value is not a list of two such numbers.
        kinds: Names of the kinds that occur.
    """

    present: pa.BooleanArray
    strings: pa.Array | None = None
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
        """Columns of a snapshot; a column of one type is not copied."""

        def make(name: str) -> Column:
            array = fields.column(name)
            return column_of_values(_decoded(array)) if fields.is_json(name) else column_of_array(array)

        return cls(rows, fields.names, make)

    @classmethod
    def of_items(cls, items: Sequence[Mapping[str, Any]]) -> AttributeColumns:
        """Columns of a few items that are not in the snapshot, from their fields by name."""
        names = dict.fromkeys(chain.from_iterable(items))
        return cls(len(items), tuple(names), lambda name: column_of_values([item.get(name) for item in items]))

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
    """The column of an Arrow array of strings, booleans, int64, float64, or lists of one of these."""
    present = array.is_valid()
    if array.null_count == len(array):
        return Column(present)
    kind = array.type
    if pa.types.is_large_list(kind):
        offsets = array.offsets.to_numpy().astype(np.int64, copy=False)
        lists = Lists(offsets, column_of_array(array.values))
        return Column(present, lists=lists, places=_places(lists))
    if pa.types.is_large_string(kind):
        return Column(present, strings=array)
    if pa.types.is_boolean(kind):
        return Column(present, booleans=array)
    if pa.types.is_int64(kind):
        return Column(present, integers=array)
    return Column(present, floats=array)


def column_of_values(values: Sequence[Any]) -> Column:
    """The column of values of mixed kinds; `None` and numbers that are not finite count as missing.

    Integers beyond 64 bits and objects count as present, but match no condition on a value.
    """
    clean = [None if type(value) is float and not math.isfinite(value) else value for value in values]
    types = set(map(type, clean))
    lists = _lists(clean) if list in types else None
    return Column(
        present=pa.array([value is not None for value in clean], pa.bool_()),
        strings=_part(clean, str, pa.large_string()) if str in types else None,
        integers=_integers(clean) if int in types else None,
        floats=_part(clean, float, pa.float64()) if float in types else None,
        booleans=_part(clean, bool, pa.bool_()) if bool in types else None,
        lists=lists,
        places=None if lists is None else _places(lists),
    )


def _part(values: list[Any], kind: type, arrow_kind: pa.DataType) -> pa.Array:
    return pa.array([value if type(value) is kind else None for value in values], arrow_kind)


def _integers(values: list[Any]) -> pa.Array | None:
    array = pa.array([value if type(value) is int and value in INT64 else None for value in values], pa.int64())
    return array if array.null_count < len(array) else None


def _lists(values: list[Any]) -> Lists:
    lists = [value if type(value) is list else [] for value in values]
    offsets = np.cumsum([0, *map(len, lists)], dtype=np.int64)
    return Lists(offsets, column_of_values(list(chain.from_iterable(lists))))


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


def _decoded(array: pa.Array) -> list[Any]:
    """The values of a column of JSON documents, decoded in one call."""
    values: list[Any] = msgspec.json.decode(f"[{','.join(array.fill_null('null').to_pylist())}]")
    return values
