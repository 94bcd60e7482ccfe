"""The catalogue as one batch sees it: a snapshot, and over it the delta of what changed since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from recserve_server_ext.catalogue.store import StoredItem
from recserve_server_ext.common.arrays import Mask, Rows, Vectors
from recserve_server_ext.index.engines.engine import Engine
from recserve_server_ext.index.fields import ItemFields
from recserve_server_ext.index.manifest import SnapshotManifest
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.index.space import TEXT, EngineManifest, Space, SpaceManifest


class RowOf(Protocol):
    """Item id -> row."""

    def get(self, item_id: str, default: int, /) -> int:
        """The row of an item, or the default."""
        ...


@dataclass(frozen=True, eq=False)
class Delta:
    """What changed after a snapshot; immutable.

    Its items have the rows after those of the snapshot. A row is never used for another item, so an older view stays
    right beside a newer one of the same snapshot.

    Attributes:
        revision: Revision of the catalogue with these changes.
        items: New and changed items in their order, perhaps followed by later ones; each change of an item adds it.
        buffer: [count or more, dim] unit float32: their vectors, and room for more.
        count: Number of items that belong to this delta.
        row_of: Row of every changed item; -1 for a removed one.
        available: [snapshot items + count] whether the row holds the newest state of an item that may be recommended.
    """

    revision: int
    items: list[StoredItem]
    buffer: Vectors
    count: int
    row_of: dict[str, int]
    available: Mask

    @property
    def vectors(self) -> Vectors:
        """[count, dim] unit float32."""
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


class SpaceView:
    """A space as a view sees it: the vectors of the snapshot's items and of the items that changed since.

    Attributes:
        items: Number of items in the snapshot: the rows before those of the delta.
        changed: [changed items, dim] vectors of the delta's items; zeros for an item without a vector.
        present: [rows] whether the item has a vector; `None` where all have.
        usable: [rows] whether the item is available and has a vector.
    """

    def __init__(self, view: View, space: Space) -> None:
        self.space = space
        self.items = len(view.snapshot.ids)
        delta = view.delta
        changed_present = np.empty(0, np.bool_)
        if delta is None:
            self.changed = np.empty((0, self.dim), np.float32)
        elif space.name == TEXT:
            self.changed = delta.vectors
        else:
            self.changed, changed_present = _placed(space, delta, view.snapshot.row_of)
        all_present = space.rows is None and (delta is None or space.name == TEXT)
        self.present: Mask | None = None if all_present else np.concatenate([space.present, changed_present])
        self.usable: Mask = view.available if self.present is None else view.available & self.present

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.space.manifest.dim

    @cached_property
    def hidden(self) -> int:
        """Number of vectors in the snapshot whose items must not be recommended."""
        return len(self.space.vectors) - int(np.count_nonzero(self.usable[: self.items]))

    @cached_property
    def unusable(self) -> int:
        """Number of rows that must not be recommended or have no vector."""
        return int(len(self.usable) - np.count_nonzero(self.usable))

    def vectors(self, rows: Rows) -> Vectors:
        """A copy of the vectors of these rows, [*rows.shape, dim]; zeros where there is none, anything for row -1."""
        space, items = self.space, self.items
        known = np.minimum(rows, items - 1) if len(self.changed) else rows
        taken: Vectors
        if space.rows is None:
            taken = space.vectors[known]
        else:
            places = space.place_of[known]
            taken = space.vectors[places]
            taken[places < 0] = 0.0
        if len(self.changed):
            changed = rows >= items
            if changed.any():
                taken[changed] = self.changed[rows[changed] - items]
        return taken


def _placed(space: Space, delta: Delta, row_of: dict[str, int]) -> tuple[Vectors, Mask]:
    """The vectors of changed items in a trained space, and which have one.

    An item of the snapshot keeps its vector. A new item has the vector of its text where the space has a map.
    """
    vectors = np.zeros((delta.count, space.manifest.dim), np.float32)
    present = np.zeros(delta.count, np.bool_)
    if space.text_map is not None:
        vectors = (delta.vectors @ space.text_map[:-1] + space.text_map[-1]).astype(np.float32)
        present[:] = True
    rows = np.array([row_of.get(item.id, -1) for item in delta.items[: delta.count]], np.int64)
    places = np.where(rows >= 0, space.place_of[rows], -1)
    vectors[places >= 0] = space.vectors[places[places >= 0]]
    return vectors, present | (places >= 0)


@dataclass(frozen=True, eq=False)
class View:
    """A snapshot and what changed since; immutable.

    Attributes:
        snapshot: Holds the rows from 0 on.
        delta: Holds the rows after them; `None` where nothing changed since.
    """

    snapshot: Snapshot
    delta: Delta | None = None

    @property
    def revision(self) -> int:
        """Revision of the catalogue."""
        return self.snapshot.manifest.revision if self.delta is None else self.delta.revision

    @cached_property
    def row_of(self) -> RowOf:
        """Row of each item id."""
        known = self.snapshot.row_of
        return known if self.delta is None else _Overlay(self.delta.row_of, known)

    @property
    def encoder(self) -> str:
        """Runtime fingerprint of the encoder that made the vectors."""
        return self.snapshot.manifest.encoder

    @property
    def available(self) -> Mask:
        """[rows] whether the row may be recommended."""
        return self.snapshot.available if self.delta is None else self.delta.available

    @cached_property
    def unavailable(self) -> int:
        """Number of rows that must not be recommended."""
        return int(len(self.available) - np.count_nonzero(self.available))

    @property
    def text(self) -> SpaceView:
        """The space of the encoder's vectors."""
        return self.space(TEXT)

    def space(self, name: str) -> SpaceView:
        """A space of the snapshot, with what changed since; raises KeyError for an unknown name."""
        found = self._spaces.get(name)
        if found is None:
            found = self._spaces[name] = SpaceView(self, self.snapshot.spaces[name])
        return found

    @cached_property
    def _spaces(self) -> dict[str, SpaceView]:
        return {}

    @cached_property
    def field_names(self) -> tuple[str, ...]:
        """Fields that at least one item has."""
        names = dict.fromkeys(self.snapshot.fields.names)
        for item in self.delta.items[: self.delta.count] if self.delta is not None else ():
            names.update(dict.fromkeys(item.fields))
        return tuple(names)

    def ids(self, rows: Rows) -> list[str]:
        """Item ids of these rows, [n]."""
        if self.delta is None:
            return list(map(self.snapshot.ids.__getitem__, rows.tolist()))
        items, ids, changed = len(self.snapshot.ids), self.snapshot.ids, self.delta.items
        return [ids[row] if row < items else changed[row - items].id for row in rows.tolist()]

    def fields(self, names: Sequence[str], rows: Rows) -> list[dict[str, Any]]:
        """The named fields of these rows [n], a dict per row; `None` for a field that an item lacks."""
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


def view_over(
    vectors: Vectors, engine: Engine, ids: Sequence[str] | None = None, available: Mask | None = None
) -> View:
    """A catalogue in memory: without files, without fields, and with the space `text` alone.

    Args:
        vectors: [items, dim] unit float32.
        ids: Item id of each row; by default ``i0``, ``i1`` ...
        available: [items] whether the item may be recommended; `None` when all may.
    """
    items, dim = vectors.shape
    names = [f"i{row}" for row in range(items)] if ids is None else list(ids)
    of = SpaceManifest(dim=dim, vectors=items, engine=EngineManifest(name=engine.name))
    manifest = SnapshotManifest(
        id="memory", created="", encoder="", revision=0, items=items, spaces={TEXT: of}, files={}
    )
    snapshot = Snapshot(
        manifest=manifest,
        ids=names,
        row_of={name: row for row, name in enumerate(names)},
        available=np.ones(items, np.bool_) if available is None else available,
        fields=ItemFields(pa.table({})),
        spaces={TEXT: Space(name=TEXT, manifest=of, items=items, vectors=vectors, engine=engine)},
    )
    return View(snapshot)
