"""The catalogue as one batch sees it: a snapshot, and over it the delta of what changed since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from recserve_server_ext.catalogue.store import StoredItem
from recserve_server_ext.common.arrays import Rows, Vectors
from recserve_server_ext.index.snapshot import Snapshot


class RowOf(Protocol):
    """Item id -> row."""

    def get(self, item_id: str, default: int, /) -> int:
        """The row of an item, or the default."""
        ...


@dataclass(frozen=True, eq=False)
class Delta:
    """What changed after a snapshot; nothing in it changes.

    Its items have the rows after those of the snapshot. A row is never used for another item, so an older view stays
    right beside a newer one of the same snapshot.

    Attributes:
        revision: Of the catalogue with these changes.
        items: New and changed items, in the order they came, and perhaps later ones; one that was changed again is
            there twice.
        buffer: [count or more, dim] unit float32: their vectors, and room for more.
        count: How many of them belong to this delta.
        row_of: Row of every changed item; -1 for those that were removed.
        available: [snapshot items + items] whether the item is there, of this revision, and may be recommended.
    """

    revision: int
    items: list[StoredItem]
    buffer: Vectors
    count: int
    row_of: dict[str, int]
    available: NDArray[np.bool_]

    @property
    def vectors(self) -> Vectors:
        """[count, dim]."""
        return self.buffer[: self.count]


class _Overlay:
    """Rows of the delta over those of the snapshot."""

    __slots__ = ("_changed", "_rest")

    def __init__(self, changed: dict[str, int], rest: dict[str, int]) -> None:
        self._changed = changed
        self._rest = rest

    def get(self, item_id: str, default: int, /) -> int:
        row = self._changed.get(item_id)
        return self._rest.get(item_id, default) if row is None else row


@dataclass(frozen=True, eq=False)
class View:
    """A snapshot and what changed since; nothing in it changes.

    Attributes:
        snapshot: The rows from 0 on.
        delta: The rows after them; none = nothing changed since.
    """

    snapshot: Snapshot
    delta: Delta | None = None
    revision: int = field(init=False)
    row_of: RowOf = field(init=False)

    def __post_init__(self) -> None:
        delta, snapshot = self.delta, self.snapshot
        object.__setattr__(self, "revision", snapshot.manifest.revision if delta is None else delta.revision)
        object.__setattr__(
            self, "row_of", snapshot.row_of if delta is None else _Overlay(delta.row_of, snapshot.row_of)
        )

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.snapshot.manifest.dim

    @property
    def encoder(self) -> str:
        """Runtime fingerprint of what made the vectors, and has to make those that are compared with them."""
        return self.snapshot.manifest.encoder

    @property
    def available(self) -> NDArray[np.bool_]:
        """[rows] whether the item is there and may be recommended."""
        return self.snapshot.available if self.delta is None else self.delta.available

    @cached_property
    def hidden(self) -> int:
        """Number of the snapshot's rows that must not be recommended."""
        items = len(self.snapshot.ids)
        return int(items - np.count_nonzero(self.available[:items]))

    @cached_property
    def unavailable(self) -> int:
        """Number of all rows that must not be recommended."""
        return int(len(self.available) - np.count_nonzero(self.available))

    @cached_property
    def field_names(self) -> tuple[str, ...]:
        """Fields that at least one item has."""
        names = dict.fromkeys(self.snapshot.fields.names)
        for item in self.delta.items[: self.delta.count] if self.delta is not None else ():
            names.update(dict.fromkeys(item.fields))
        return tuple(names)

    def vectors(self, rows: Rows) -> Vectors:
        """A copy of the vectors of these rows, [*rows.shape, dim]; row -1 gives any vector."""
        taken: Vectors
        if self.delta is None:
            taken = self.snapshot.vectors[rows]
            return taken
        items = len(self.snapshot.ids)
        taken = self.snapshot.vectors[np.minimum(rows, items - 1)]
        changed = rows >= items
        if changed.any():
            taken[changed] = self.delta.vectors[rows[changed] - items]
        return taken

    def ids(self, rows: Rows) -> list[str]:
        """Item ids of these rows, [n]."""
        if self.delta is None:
            return list(map(self.snapshot.ids.__getitem__, rows.tolist()))
        items, ids, changed = len(self.snapshot.ids), self.snapshot.ids, self.delta.items
        return [ids[row] if row < items else changed[row - items].id for row in rows.tolist()]

    def fields(self, names: Sequence[str], rows: Rows) -> list[dict[str, Any]]:
        """The named fields of these rows [n], a dict per row; None where an item lacks one."""
        if self.delta is None:
            return self.snapshot.fields.take(names, rows)
        items = len(self.snapshot.ids)
        in_snapshot = rows < items
        found = iter(self.snapshot.fields.take(names, rows[in_snapshot]))
        changed = self.delta.items
        return [
            next(found) if row < items else {name: changed[row - items].fields.get(name) for name in names}
            for row in rows.tolist()
        ]
