"""The fields of the items of a snapshot: columns in an Arrow file that is mapped, not read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recserve_server_ext.common.errors import SnapshotError

_JSON = {b"recserve.encoding": b"json"}
_INT64 = range(-(2**63), 2**63)


class ItemFields:
    """Values of named fields by row.

    Attributes:
        names: The fields there are, in the order they first appear in the catalogue.
    """

    def __init__(self, table: pa.Table) -> None:
        """Serve the columns of a table that `write_fields` made."""
        self.names: tuple[str, ...] = tuple(table.column_names)
        self._columns = dict(zip(self.names, table.columns, strict=True))
        self._is_json = {field.name for field in table.schema if (field.metadata or {}) == _JSON}

    @classmethod
    def load(cls, path: Path) -> ItemFields:
        """Map the file into memory.

        Raises:
            SnapshotError: It is not an Arrow file.
        """
        return cls(read_table(path))

    def take(self, names: Sequence[str], rows: NDArray[np.int64]) -> list[dict[str, Any]]:
        """The named fields of these rows, a dict per row; None where an item lacks one, lists as lists.

        Args:
            names: Fields of the items; one that no item has is None everywhere.
            rows: [n] row numbers, none negative.
        """
        columns = [self._values(name, rows) for name in names]
        if not columns:
            return [{} for _ in rows]
        return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]

    def column(self, name: str) -> pa.Array:
        """All values of a field, by row, as they are stored: see `is_json`.

        Raises:
            KeyError: No item has this field.
        """
        return self._columns[name].combine_chunks()

    def is_json(self, name: str) -> bool:
        """Whether the field's values are of different kinds and kept as JSON text."""
        return name in self._is_json

    def _values(self, name: str, rows: NDArray[np.int64]) -> list[Any]:
        column = self._columns.get(name)
        if column is None:
            return [None] * len(rows)
        values: list[Any] = column.take(pa.array(rows)).to_pylist()
        if name in self._is_json:
            return [None if value is None else msgspec.json.decode(value) for value in values]
        return values


def write_fields(path: Path, items: Iterable[Mapping[str, Any]]) -> int:
    """Write the fields of all items, in the order of their rows; see `ItemFields`.

    A field whose values are all strings, all booleans, all integers, all floats, all lists of strings or all lists of
    floats (such as places) becomes a column of that type; any other is kept as JSON, value by value.

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
    """Write a table so that `read_table` can map it."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def read_table(path: Path) -> pa.Table:
    """Map an Arrow file.

    Raises:
        SnapshotError: It is not one.
    """
    try:
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_file(source).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise SnapshotError(f"{path} cannot be read: {error}; rebuild it with: recserve index build") from error


def _arrow_column(name: str, values: list[Any]) -> tuple[pa.Field, pa.Array]:
    kind = _arrow_type(values)
    if kind is None:
        encoded = [None if value is None else msgspec.json.encode(value).decode() for value in values]
        return pa.field(name, pa.large_string(), metadata=_JSON), pa.array(encoded, pa.large_string())
    return pa.field(name, kind), pa.array(values, kind)


def _arrow_type(values: list[Any]) -> pa.DataType | None:
    """The type that holds all these values unchanged; None where there is no such type here."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {str}:
        return pa.large_string()
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int} and all(value in _INT64 for value in values if value is not None):
        return pa.int64()
    if kinds == {float} and all(math.isfinite(value) for value in values if value is not None):
        return pa.float64()
    if kinds == {list}:
        return _arrow_list_type([value for value in values if value is not None])
    return None


def _arrow_list_type(lists: list[list[Any]]) -> pa.DataType | None:
    """The type that holds all these lists unchanged; None where there is no such type here."""
    kinds = {type(part) for parts in lists for part in parts}
    if kinds <= {str}:
        return pa.large_list(pa.large_string())
    if kinds == {float} and all(math.isfinite(part) for parts in lists for part in parts):
        return pa.large_list(pa.float64())
    return None
