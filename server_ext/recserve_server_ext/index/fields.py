"""Fields of the items of a snapshot: columns in an Arrow file that is mapped, not read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from recserve_server_ext.common.arrays import Rows
from recserve_server_ext.common.errors import REBUILD, SnapshotError
from recserve_server_ext.common.files import reading
from recserve_server_ext.common.units import INT64

_JSON = {b"recserve.encoding": b"json"}


class ItemFields:
    """Values of fields by row, from a table of `write_fields`; `names` is in the order of first appearance."""

    def __init__(self, table: pa.Table) -> None:
        self.names: tuple[str, ...] = tuple(table.column_names)
        self._columns = dict(zip(self.names, table.columns, strict=True))
        self._is_json = {field.name for field in table.schema if (field.metadata or {}) == _JSON}

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
        """All values of a field, by row, as they are stored, see `is_json`; raises KeyError for an unknown field."""
        return whole(self._columns[name])

    def is_json(self, name: str) -> bool:
        """Whether the field's values have different types and are kept as JSON."""
        return name in self._is_json

    def _values(self, name: str, rows: Rows) -> list[Any]:
        column = self._columns.get(name)
        if column is None:
            return [None] * len(rows)
        values: list[Any] = column.take(pa.array(rows)).to_pylist()
        if name in self._is_json:
            return [None if value is None else msgspec.json.decode(value) for value in values]
        return values


def write_fields(path: Path, items: Iterable[Mapping[str, Any]]) -> int:
    """Write the fields of all items, in the order of their rows; see `ItemFields`.

    A field whose values are all strings, booleans, integers, floats, lists of strings or lists of floats (places)
    becomes a column of that type; any other field is kept as JSON, value by value.

    Returns:
        Number of items.
    """
    columns: dict[str, list[Any]] = {}
    count = 0
    for count, item in enumerate(items, start=1):
        for name, value in item.items():
            column = columns.setdefault(name, [])
            column.extend([None] * (count - 1 - len(column)))
            column.append(value)
    fields, arrays = [], []
    for name, column in columns.items():
        column.extend([None] * (count - len(column)))
        field, array = _arrow_column(name, column)
        fields.append(field)
        arrays.append(array)
    write_table(path, pa.table(arrays, schema=pa.schema(fields)))
    return count


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


def _arrow_column(name: str, values: list[Any]) -> tuple[pa.Field, pa.Array]:
    kind = _arrow_type([value for value in values if value is not None])
    if kind is None:
        encoded = [None if value is None else msgspec.json.encode(value).decode() for value in values]
        return pa.field(name, pa.large_string(), metadata=_JSON), pa.array(encoded, pa.large_string())
    return pa.field(name, kind), pa.array(values, kind)


def _arrow_type(values: list[Any], *, in_list: bool = False) -> pa.DataType | None:
    """The Arrow type that holds all these values unchanged, or `None`."""
    kinds = set(map(type, values))
    if kinds <= {str}:
        return pa.large_string()
    if kinds == {float} and all(map(math.isfinite, values)):
        return pa.float64()
    if in_list:
        return None
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int} and all(value in INT64 for value in values):
        return pa.int64()
    if kinds == {list}:
        part = _arrow_type([part for parts in values for part in parts], in_list=True)
        return None if part is None else pa.large_list(part)
    return None
