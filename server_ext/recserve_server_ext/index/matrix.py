"""A sparse item-to-item matrix of a snapshot: what a behaviour with one item adds to the scores of others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from recserve_server_ext.common.arrays import Ints, Rows
from recserve_server_ext.common.errors import REBUILD, SnapshotError
from recserve_server_ext.common.files import reading

_OFFSETS: Final = "offsets.npy"
_COLUMNS: Final = "columns.npy"
_WEIGHTS: Final = "weights.npy"


class MatrixManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An item-to-item matrix in the manifest of its snapshot.

    Attributes:
        entries: Number of weights.
        version: Version of the training that it comes from.
    """

    entries: int
    version: str = ""


class Entries(NamedTuple):
    """Entries of some rows of a matrix, one row after the other.

    Attributes:
        place: [entries] position in the rows asked for.
        column: [entries] the other item.
        weight: [entries] what it gets.
    """

    place: Ints
    column: Ints
    weight: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ItemMatrix:
    """Compressed sparse rows; immutable.

    Attributes:
        offsets: [items + 1] where the entries of each item begin.
        columns: [entries] int32, the item that gets the weight.
        weights: [entries] float32.
        version: See `MatrixManifest`.
    """

    offsets: Ints
    columns: NDArray[np.int32]
    weights: NDArray[np.float32]
    version: str = ""

    @property
    def items(self) -> int:
        """Number of items."""
        return len(self.offsets) - 1

    def manifest(self) -> MatrixManifest:
        """Its part of the snapshot's manifest."""
        return MatrixManifest(entries=len(self.columns), version=self.version)

    def of_rows(self, rows: Rows) -> Entries:
        """The entries of some rows; none for row -1."""
        known = rows >= 0
        starts = np.where(known, self.offsets[rows], 0)
        lengths = np.where(known, self.offsets[rows + 1] - starts, 0)
        place = np.repeat(np.arange(len(rows)), lengths)
        entry = np.arange(len(place)) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
        return Entries(place, self.columns[entry].astype(np.int64), self.weights[entry])

    def renumbered(self, row_of: Ints, items: int) -> ItemMatrix:
        """The matrix over other items.

        Args:
            row_of: [items] new row of each item; -1 for an item that is gone.
            items: Number of new rows.
        """
        row = np.repeat(row_of, np.diff(self.offsets))
        column = row_of[self.columns]
        kept = np.flatnonzero((row >= 0) & (column >= 0))
        kept = kept[np.argsort(row[kept], kind="stable")]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(row[kept], minlength=items))])
        return ItemMatrix(offsets, column[kept].astype(np.int32), self.weights[kept], self.version)

    def check(self, name: str, items: int) -> None:
        """Raise SnapshotError unless it is a finite matrix of so many items."""
        lengths = np.diff(self.offsets)
        fits = self.items == items and (lengths >= 0).all() and self.offsets[0] == 0
        fits = fits and self.offsets[-1] == len(self.columns) == len(self.weights)
        if not fits or (len(self.columns) and not 0 <= self.columns.min() <= self.columns.max() < items):
            raise SnapshotError(f"the matrix {name!r} is not one of {items} items")
        if not np.isfinite(self.weights).all():
            raise SnapshotError(f"the matrix {name!r} has weights that are not finite")

    def write(self, folder: Path) -> None:
        """Write it into a folder, which may be new."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / _OFFSETS, self.offsets.astype(np.int64))
        np.save(folder / _COLUMNS, self.columns.astype(np.int32))
        np.save(folder / _WEIGHTS, self.weights.astype(np.float32))

    @classmethod
    def load(cls, folder: Path, items: int, version: str = "", advice: str = REBUILD) -> ItemMatrix:
        """Open the matrix in a folder; its arrays are mapped. Raises SnapshotError where it is damaged."""
        with reading(folder, SnapshotError, advice):
            offsets, columns, weights = (
                np.load(folder / name, mmap_mode="r").view(np.ndarray) for name in (_OFFSETS, _COLUMNS, _WEIGHTS)
            )
        found = cls(offsets, columns, weights, version)
        found.check(folder.name, items)
        return found


def matrix_folder(snapshot: Path, name: str) -> Path:
    """The folder of a matrix in that of its snapshot."""
    return snapshot / "matrices" / name


def is_matrix(folder: Path) -> bool:
    """Whether a folder holds a matrix."""
    return (folder / _OFFSETS).is_file()
