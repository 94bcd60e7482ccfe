"""Fields of the items of a snapshot: columns in an Arrow file that is mapped, not read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recserve_server_ext.common.arrays import Mask, Rows
from recserve_server_ext.common.errors import REBUILD, SnapshotError
from recserve_server_ext.common.files import reading
from recserve_server_ext.common.units import INT64

#: Parts of a column with values of several types: whether a row has a value, and that value in full.
PRESENT: Final = "present"
_JSON: Final = "json"
#: Part of the values of a type, null where a row has no value of that type.
PART_OF: Final = {str: "strings", int: "integers", float: "floats", bool: "booleans", list: "lists"}
_NUMBERS: Final = {int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


class ItemFields:
    """Values of fields by row, from a table of `write_fields`; `names` is in the order of first appearance."""

    def __init__(self, table: pa.Table) -> None:
        self.names: tuple[str, ...] = tuple(table.column_names)
        self._columns = {name: whole(column) for name, column in zip(self.names, table.columns, strict=True)}

    @classmethod
    def load(cls, path: Path) -> ItemFields:
        """Map the file into memory; raises SnapshotError where it is no Arrow file."""
        return cls(read_table(path))

    def take(self, names: Sequence[str], rows: Rows) -> list[dict[str, Any]]:
        """The named fields of these rows [n], none negative, a dict per row; `None` for a field that an item lacks."""
        columns = [self._values(name, rows) for name in names]
        if not columns:
            return [{} for _ in rows]
        return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]

    def column(self, name: str) -> pa.Array:
        """All values of a field, by row, see `typed_array`; raises KeyError for an unknown field."""
        return self._columns[name]

    def _values(self, name: str, rows: Rows) -> list[Any]:
        column = self._columns.get(name)
        if column is None:
            return [None] * len(rows)
        is_mixed = pa.types.is_struct(column.type)
        taken = (column.field(_JSON) if is_mixed else column).take(pa.array(rows))
        found: list[Any] = _decoded(taken).to_pylist()
        return [None if value is None else msgspec.json.decode(value) for value in found] if is_mixed else found


def write_fields(path: Path, items: Iterable[Mapping[str, Any]]) -> int:
    """Write the fields of all items, in the order of their rows; see `ItemFields`.

    A field becomes a column as filters read it, see `typed_array`. Where its values have several types, each is also
    kept as JSON.

    Returns:
        Number of items.
    """
    columns: dict[str, list[Any]] = {}
    count = 0
    for count, item in enumerate(items, start=1):
        for name, value in item.items():
            column = columns.get(name)
            if column is None:
                column = columns[name] = []
            if (missing := count - 1 - len(column)) > 0:
                column.extend([None] * missing)
            column.append(value)
    arrays = []
    for column in columns.values():
        column.extend([None] * (count - len(column)))
        arrays.append(_with_documents(typed_array(column), column))
    write_table(path, pa.table(arrays, names=list(columns)))
    return count


def typed_array(values: Sequence[Any]) -> pa.Array:
    """Values of one field as an Arrow array; null for `None` and for numbers that are not finite.

    Strings are codes of a sorted dictionary, and lists hold such an array of all their elements. Values of several
    types become a struct with the fields `PRESENT` and those of `PART_OF`; integers beyond 64 bits and objects are in
    no part.
    """
    clean = [None if type(value) is float and not math.isfinite(value) else value for value in values]
    kinds = set(map(type, clean)) - {type(None)} or {str}
    parts = {name: _part(clean, kind) for kind, name in PART_OF.items() if kind in kinds}
    if len(parts) == len(kinds) == 1:
        (part,) = parts.values()
        if part.null_count == clean.count(None):
            return part
    present = pa.array([value is not None for value in clean], pa.bool_())
    return pa.StructArray.from_arrays([present, *parts.values()], names=[PRESENT, *parts])


def _part(values: Sequence[Any], kind: type) -> pa.Array:
    """The values of this type."""
    own: list[Any] = [value if type(value) is kind else None for value in values]
    if kind is str:
        return _sorted_strings(own)
    if kind is list:
        lists = [value or [] for value in own]
        offsets = np.cumsum([0, *map(len, lists)], dtype=np.int64)
        elements = typed_array(list(chain.from_iterable(lists)))
        return pa.LargeListArray.from_arrays(
            pa.array(offsets), elements, mask=pa.array([value is None for value in own], pa.bool_())
        )
    if kind is int:
        own = [value if value is not None and value in INT64 else None for value in own]
    return pa.array(own, _NUMBERS[kind])


def _sorted_strings(values: Sequence[str | None]) -> pa.DictionaryArray:
    """Strings as codes of their distinct values in the order of their code points, which is that of the codes too."""
    encoded = pa.array(values, pa.large_string()).dictionary_encode()
    order = pc.sort_indices(encoded.dictionary)
    codes = np.empty(len(order), np.int32)
    codes[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(codes).take(encoded.indices), encoded.dictionary.take(order))


def _decoded(array: pa.Array) -> pa.Array:
    """The array with strings for their codes, which are slow to read one by one."""
    if pa.types.is_dictionary(array.type):
        return array.dictionary_decode()
    if pa.types.is_large_list(array.type) and pa.types.is_dictionary(array.type.value_type):
        return pa.LargeListArray.from_arrays(array.offsets, _decoded(array.values), mask=array.is_null())
    return array


def _with_documents(array: pa.Array, values: Sequence[Any]) -> pa.Array:
    """The array, with the values as JSON where it does not give them back as they are."""
    kind = array.type
    while pa.types.is_large_list(kind):
        kind = kind.value_type
    if not pa.types.is_struct(kind):
        return array
    parts = {PRESENT: array.is_valid(), PART_OF[list]: array}
    if pa.types.is_struct(array.type):
        parts = dict(zip((field.name for field in array.type), array.flatten(), strict=True))
    documents = [None if value is None else msgspec.json.encode(value).decode() for value in values]
    return pa.StructArray.from_arrays([pa.array(documents, pa.large_string()), *parts.values()], names=[_JSON, *parts])


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table that `read_table` can map."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def read_table(path: Path) -> pa.Table:
    """Map an Arrow file; raises SnapshotError where it is none."""
    with reading(path, SnapshotError, REBUILD), pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def whole(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array, which is not copied where it was written as one."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def flags(column: pa.ChunkedArray) -> Mask:
    """[rows] a column of booleans without nulls; not by `to_numpy`, which imports pandas where that is installed."""
    numbers = whole(pc.cast(column, pa.uint8()))
    return np.frombuffer(numbers.buffers()[1], np.uint8, len(numbers), numbers.offset).astype(np.bool_)
