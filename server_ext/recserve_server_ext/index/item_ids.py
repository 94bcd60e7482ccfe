"""Item ids of a snapshot: a mapped Arrow column, and a mapped hash table that finds the row of an id."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recserve_server_ext.common.errors import REBUILD, SnapshotError
from recserve_server_ext.common.files import reading

#: File of the table of a snapshot's ids.
ROW_TABLE = "rows_by_id.npy"
_Table = NDArray[np.uint32]
#: Rows that were looked up are kept, up to so many, since a look-up in the table costs ten times as much.
_READY = 65_536


class ItemIds(Sequence[str]):
    """Item id of each row; a string is made when it is asked for."""

    def __init__(self, array: pa.LargeStringArray) -> None:
        """Wrap ids without nulls, mapped or in memory."""
        self._array = array
        _, offsets, content = array.buffers()
        first = array.offset
        self._starts = memoryview(offsets).cast("q")[first : first + len(array) + 1]
        self._bytes = memoryview(b"" if content is None else content).cast("B")

    def __len__(self) -> int:
        return len(self._array)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            found: list[str] = self._array[row].to_pylist()
            return found
        if row < 0:
            row += len(self)
        return str(self._bytes[self._starts[row] : self._starts[row + 1]], "utf-8")

    def __iter__(self) -> Iterator[str]:
        return iter(self._array.to_pylist())

    def encoded(self, row: int) -> memoryview:
        """The UTF-8 bytes of the id of a row that is not negative."""
        return self._bytes[self._starts[row] : self._starts[row + 1]]


class RowTable(Mapping[str, int]):
    """Row of each item id: rows by the CRC-32 of their ids, in buckets of one on average; thread-safe."""

    def __init__(self, ids: ItemIds, table: _Table) -> None:
        """Wrap the table that `_hashed` makes of these ids."""
        self._ids = ids
        buckets = len(table) - len(ids) - 1
        self._mask = buckets - 1
        shared = table.data
        self._starts, self._rows = shared[: buckets + 1], shared[buckets + 1 :]
        self._ready: dict[str, int] = {}

    @classmethod
    def load(cls, folder: Path, ids: ItemIds) -> RowTable:
        """Map the table of a snapshot; raises SnapshotError where it cannot be read."""
        path = folder / ROW_TABLE
        with reading(path, SnapshotError, REBUILD):
            return cls(ids, np.load(path, mmap_mode="r"))

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __getitem__(self, item_id: str) -> int:
        row: int = self.get(item_id, -1)
        if row < 0:
            raise KeyError(item_id)
        return row

    def __contains__(self, item_id: object) -> bool:
        return isinstance(item_id, str) and self.get(item_id, -1) >= 0

    def get(self, item_id: str, default: Any = None, /) -> Any:
        """The row of an item, or the default."""
        row = self._ready.get(item_id)
        if row is not None:
            return row
        key = item_id.encode("utf-8", "surrogatepass")
        bucket = zlib.crc32(key) & self._mask
        for place in range(self._starts[bucket], self._starts[bucket + 1]):
            row = self._rows[place]
            if self._ids.encoded(row) == key:
                if len(self._ready) >= _READY:
                    self._ready = {}
                self._ready[item_id] = row
                return row
        return default


def write_row_table(folder: Path, ids: Sequence[str]) -> None:
    """Write the table of a new snapshot's ids for `RowTable.load`."""
    np.save(folder / ROW_TABLE, _hashed(ids))


def _hashed(ids: Sequence[str]) -> _Table:
    """The table of `RowTable`: where each bucket starts among the rows and the end, then the rows by bucket.

    The number of buckets is the power of two that is not less than the number of ids.
    """
    buckets = 1 << max(0, len(ids) - 1).bit_length()
    bucket_of = np.fromiter((zlib.crc32(one.encode()) for one in ids), np.uint32, len(ids)) & np.uint32(buckets - 1)
    starts = np.zeros(buckets + 1, np.uint32)
    np.cumsum(np.bincount(bucket_of, minlength=buckets), out=starts[1:])
    return np.concatenate([starts, np.argsort(bucket_of, kind="stable").astype(np.uint32)])
