"""Item ids of a snapshot: a mapped Arrow column, and a mapped hash table that finds the row of an id."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recserve_server_ext.common.arrays import Ints, Mask, Rows
from recserve_server_ext.common.errors import REBUILD, SnapshotError
from recserve_server_ext.common.files import reading

#: File of the table of a snapshot's ids.
ROW_TABLE = "rows_by_id.npy"
_Table = NDArray[np.uint32]
#: Rows of ids that were looked up one by one are kept, up to so many.
_READY: Final = 65_536
#: Fewer ids than this are looked up one by one: the arrays of a look-up together take longer.
_FEW: Final = 64
#: No more than this are looked up together: the arrays stay in the cache of a core.
_MOST: Final = 1024


class ItemIds(Sequence[str]):
    """Item id of each row; a string is made when it is asked for."""

    def __init__(self, array: pa.LargeStringArray) -> None:
        """Wrap ids without nulls, mapped or in memory."""
        self._array = array
        _, offsets, content = array.buffers()
        first = array.offset
        self._starts = memoryview(offsets).cast("q")[first : first + len(array) + 1]
        self._bytes = memoryview(b"" if content is None else content).cast("B")
        self._start_of_row = np.frombuffer(self._starts, np.int64)
        self._characters = np.frombuffer(self._bytes, np.uint8)

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

    def equals(self, rows: Rows, encoded: bytes, starts: Ints, lengths: Ints) -> Mask:
        """[n] whether the ids of these rows [n] are the UTF-8 bytes with these starts [n] and lengths [n]."""
        own = self._start_of_row[rows]
        is_equal = self._start_of_row[rows + 1] - own == lengths
        # Those of another length are compared with nothing.
        lengths = np.where(is_equal, lengths, 0)
        ends = np.cumsum(lengths)
        firsts = ends - lengths
        places = np.repeat(starts - firsts, lengths) + np.arange(lengths.sum())
        stored = self._characters.take(places + np.repeat(own - starts, lengths))
        given = np.frombuffer(encoded, np.uint8).take(places)
        differing = np.concatenate([[0], np.cumsum(stored != given)])
        return np.asarray(is_equal & (differing[ends] == differing[firsts]))


class RowTable(Mapping[str, int]):
    """Row of each item id: rows by the CRC-32 of their ids, in buckets of half an id on average; thread-safe."""

    def __init__(self, ids: ItemIds, table: _Table) -> None:
        """Wrap the table that `_hashed` makes of these ids."""
        self._ids = ids
        buckets = len(table) - len(ids) - 1
        self._mask = buckets - 1
        self._table = table[: buckets + 1], table[buckets + 1 :]
        self._starts, self._rows = (part.data for part in self._table)
        self._ready: dict[str, int] = {}

    @classmethod
    def of(cls, ids: Sequence[str]) -> RowTable:
        """The table of ids in memory."""
        return cls(ItemIds(pa.array(ids, pa.large_string())), _hashed(ids))

    @classmethod
    def load(cls, folder: Path, ids: ItemIds) -> RowTable:
        """Map the table of a snapshot; raises SnapshotError where it cannot be read."""
        path = folder / ROW_TABLE
        with reading(path, SnapshotError, REBUILD):
            return cls(ids, np.load(path, mmap_mode="r").view(np.ndarray))

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
        if row is None:
            row = self._look_up(item_id)
            if row < 0:
                return default
            # Another thread may keep some, too; then a few more are kept, or a few are looked up again.
            if len(self._ready) >= _READY:
                self._ready = {}
            self._ready[item_id] = row
        return row

    def rows(self, item_ids: Sequence[str]) -> Rows:
        """[n] row of each of these ids, -1 for those that are not there."""
        if len(item_ids) < _FEW:
            ready = zip(item_ids, map(self._ready.get, item_ids), strict=True)
            return np.array([self.get(item_id, -1) if row is None else row for item_id, row in ready], np.int64)
        parts = [self._looked_up(item_ids[start : start + _MOST]) for start in range(0, len(item_ids), _MOST)]
        return np.concatenate(parts)

    def _looked_up(self, item_ids: Sequence[str]) -> Rows:
        keys = _encoded(item_ids)
        buckets = np.fromiter(map(zlib.crc32, keys), np.uint32, len(keys)) & self._mask
        starts, rows = self._table
        firsts = starts[buckets].astype(np.int64)
        counts = starts[buckets + 1] - firsts
        # All ids of a bucket at once: a second pass for few of them takes as long as the first.
        ends = np.cumsum(counts)
        asked = np.repeat(np.arange(len(keys)), counts)
        candidates = rows[np.repeat(firsts - ends + counts, counts) + np.arange(len(asked))].astype(np.int64)
        lengths = np.fromiter(map(len, keys), np.int64, len(keys))
        places = np.cumsum(lengths) - lengths
        is_it = self._ids.equals(candidates, b"".join(keys), places[asked], lengths[asked])
        found = np.full(len(keys), -1, np.int64)
        found[asked[is_it]] = candidates[is_it]
        return found

    def _look_up(self, item_id: str) -> int:
        key = item_id.encode("utf-8", "surrogatepass")
        bucket = zlib.crc32(key) & self._mask
        for place in range(self._starts[bucket], self._starts[bucket + 1]):
            if self._ids.encoded(self._rows[place]) == key:
                return self._rows[place]
        return -1


def places_of(items: Sequence[str], place_of: Mapping[str, int]) -> Ints:
    """[items] the place of each by a dictionary, -1 for those that it lacks; a `RowTable` has `rows`."""
    return np.fromiter((place_of.get(item, -1) for item in items), np.int64, len(items))


def _encoded(ids: Sequence[str]) -> list[bytes]:
    """Ids as UTF-8; a lone surrogate, which no id of a catalogue holds, is no error."""
    try:
        return list(map(str.encode, ids))
    except UnicodeEncodeError:
        return [one.encode("utf-8", "surrogatepass") for one in ids]


def write_row_table(folder: Path, ids: Sequence[str]) -> None:
    """Write the table of a new snapshot's ids for `RowTable.load`."""
    np.save(folder / ROW_TABLE, _hashed(ids))


def _hashed(ids: Sequence[str]) -> _Table:
    """The table of `RowTable`: where each bucket starts among the rows and the end, then the rows by bucket.

    The number of buckets is the power of two that is not less than twice the number of ids.
    """
    buckets = 1 << (2 * len(ids) - 1).bit_length()
    bucket_of = np.fromiter((zlib.crc32(one.encode()) for one in ids), np.uint32, len(ids)) & np.uint32(buckets - 1)
    starts = np.zeros(buckets + 1, np.uint32)
    np.cumsum(np.bincount(bucket_of, minlength=buckets), out=starts[1:])
    return np.concatenate([starts, np.argsort(bucket_of, kind="stable").astype(np.uint32)])
