"""The catalogue as one batch sees it: a snapshot, and over it the delta of what changed since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from recserve_server_ext.catalogue.own_vectors import OwnSpace, OwnVectors
from recserve_server_ext.catalogue.store import StoredItem
from recserve_server_ext.common.arrays import Mask, Rows, Scores, Vectors
from recserve_server_ext.index.engines.engine import Engine
from recserve_server_ext.index.fields import ItemFields
from recserve_server_ext.index.item_ids import RowTable
from recserve_server_ext.index.manifest import SnapshotManifest
from recserve_server_ext.index.matrix import Entries, ItemMatrix
from recserve_server_ext.index.model import Model
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.index.space import TEXT, EngineManifest, Space, SpaceManifest


class RowOf(Protocol):
    """Item id -> row."""

    def get(self, item_id: str, default: int, /) -> int:
        """The row of an item, or the default."""
        ...

    def rows(self, item_ids: Sequence[str]) -> Rows:
        """[n] row of each of these ids, -1 for those that are not there."""
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
        own: Vectors for spaces of the caller's own, by place in `items` and by space; perhaps also of later ones.
    """

    revision: int
    items: list[StoredItem]
    buffer: Vectors
    count: int
    row_of: dict[str, int]
    available: Mask
    own: dict[int, OwnVectors] = field(default_factory=dict)

    @property
    def vectors(self) -> Vectors:
        """[count, dim] unit float32."""
        return self.buffer[: self.count]


class _Overlay:
    """Rows of the delta over those of the snapshot."""

    __slots__ = ("_changed", "_rest")

    def __init__(self, changed: dict[str, int], rest: RowTable) -> None:
        self._changed = changed
        self._rest = rest

    def get(self, item_id: str, default: int, /) -> int:
        row = self._changed.get(item_id)
        return self._rest.get(item_id, default) if row is None else row

    def rows(self, item_ids: Sequence[str]) -> Rows:
        rows = self._rest.rows(item_ids)
        for place in np.flatnonzero([item_id in self._changed for item_id in item_ids]).tolist():
            rows[place] = self._changed[item_ids[place]]
        return rows


class SpaceView:
    """A space as a view sees it: the vectors of the snapshot's items and of the items that changed since.

    Attributes:
        items: Number of items in the snapshot: the rows before those of the delta.
        changed: [changed items, dim] vectors of the delta's items; zeros for an item without a vector.
        changed_inputs: [changed items, dim] their vectors as behaviours.
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
            joint, changed_present = _placed(space, delta, view.snapshot.row_of)
            self.changed = np.ascontiguousarray(joint[:, : self.dim])
        self.changed_inputs = self.changed if delta is None or space.inputs is None else joint[:, self.dim :]
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
        return self._taken(self.space.vectors, self.changed, rows)

    def products(self, users: Vectors, rows: Rows) -> Scores:
        """[users, candidates] inner products of each user vector with its rows; 0 for rows without a vector, and -1."""
        # Here, since faiss is large and only some strategies score rows.
        from recserve_server_ext.index.engines.inner_products import products_by_row

        space, items = self.space, self.items
        places = np.where(rows < items, rows, -1) if len(self.changed) else rows
        if space.rows is not None:
            places = np.where(places >= 0, space.place_of[places], -1)
        scores = products_by_row(users, space.vectors, places)
        scores[places < 0] = 0.0
        if len(self.changed):
            user, place = np.nonzero(rows >= items)
            scores[user, place] = np.einsum("nd,nd->n", users[user], self.changed[rows[user, place] - items])
        return scores

    def inputs(self, rows: Rows) -> Vectors:
        """A copy of the vectors that these rows have as behaviours; zeros where there is none, and for row -1."""
        stored = self.space.vectors if self.space.inputs is None else self.space.inputs
        taken = self._taken(stored, self.changed_inputs, rows)
        taken[rows < 0] = 0.0
        return taken

    def _taken(self, stored: Vectors, of_changed: Vectors, rows: Rows) -> Vectors:
        space, items = self.space, self.items
        known = np.minimum(rows, items - 1) if len(of_changed) else rows
        # `take` copies rows a fifth faster than an index; -1 is the last row to it, too.
        if space.rows is None:
            taken: Vectors = stored.take(known, axis=0, mode="wrap")
        else:
            places = space.place_of[known]
            taken = stored.take(places, axis=0, mode="wrap")
            taken[places < 0] = 0.0
        if len(of_changed):
            changed = rows >= items
            if changed.any():
                taken[changed] = of_changed[rows[changed] - items]
        return taken


class MatrixView:
    """An item-to-item matrix as a view sees it: by its rows, where a changed item keeps what it had."""

    def __init__(self, view: View, matrix: ItemMatrix) -> None:
        self.matrix = matrix
        items, delta = len(view.snapshot.ids), view.delta
        self._stored: Rows | None = None
        self._current: Rows | None = None
        if delta is not None:
            row_of = view.snapshot.row_of
            changed = row_of.rows([item.id for item in delta.items[: delta.count]])
            self._stored = np.concatenate([np.arange(items), changed])
            self._current = np.arange(items)
            for name, row in delta.row_of.items():
                if (stored := row_of.get(name)) is not None:
                    self._current[stored] = row

    def entries(self, rows: Rows) -> Entries:
        """The entries of some rows of the view, by rows of the view; none for row -1 and for items without a row."""
        if self._stored is None or self._current is None:
            return self.matrix.of_rows(rows)
        found = self.matrix.of_rows(np.where(rows >= 0, self._stored[rows], -1))
        column = self._current[found.column]
        kept = column >= 0
        return Entries(found.place[kept], column[kept], found.weight[kept])

    def has_entries(self, rows: Rows) -> Mask:
        """Whether each row has any entry."""
        stored = rows if self._stored is None else np.where(rows >= 0, self._stored[rows], -1)
        return np.asarray((stored >= 0) & (self.matrix.offsets[stored + 1] > self.matrix.offsets[stored]))


def _placed(space: Space, delta: Delta, row_of: RowTable) -> tuple[Vectors, Mask]:
    """The vectors of changed items in a trained space, beside them their inputs, and which items have them.

    A vector of the caller's own that came with an item counts first. Else an item of the snapshot keeps its learned
    vector, and a new item has the vector of its text where the space has a map.
    """
    vectors = np.zeros((delta.count, space.manifest.dim * (1 if space.inputs is None else 2)), np.float32)
    present = np.zeros(delta.count, np.bool_)
    if space.text_map is not None:
        vectors = (delta.vectors @ space.text_map[:-1] + space.text_map[-1]).astype(np.float32)
        present[:] = True
    rows = row_of.rows([item.id for item in delta.items[: delta.count]])
    places = np.where(rows >= 0, space.place_of[rows], -1)
    if space.upserted is not None:
        places[(places >= 0) & space.upserted[places]] = -1
    known = places[places >= 0]
    vectors[places >= 0, : space.manifest.dim] = space.vectors[known]
    if space.inputs is not None:
        vectors[places >= 0, space.manifest.dim :] = space.inputs[known]
    own, is_known = OwnSpace(space.manifest.dim, space.manifest.version), (places >= 0).tolist()
    came = {
        place: vector.packed
        for place, of in delta.own.items()
        if place < delta.count and (vector := of.get(space.name)) is not None and vector.counts(own, is_known[place])
    }
    present[list(came)] = True
    vectors[list(came), : own.dim] = np.frombuffer(b"".join(came.values()), "<f4").reshape(-1, own.dim)
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
    def young(self) -> Mask:
        """[rows] items that are younger than the last training; none where nothing was trained that maps texts."""
        young, known = self.snapshot.young, self.snapshot.row_of
        if self.delta is None or not any(space.learned is not None for space in self.snapshot.spaces.values()):
            return np.concatenate([young, np.zeros(len(self.available) - len(young), np.bool_)])
        rows = [known.get(item.id, -1) for item in self.delta.items[: self.delta.count]]
        return np.concatenate([young, [row < 0 or bool(young[row]) for row in rows]]).astype(np.bool_)

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

    def matrix(self, name: str) -> MatrixView:
        """An item-to-item matrix of the snapshot, with what changed since; raises KeyError for an unknown name."""
        found = self._matrices.get(name)
        if found is None:
            found = self._matrices[name] = MatrixView(self, self.snapshot.matrices[name])
        return found

    @cached_property
    def _spaces(self) -> dict[str, SpaceView]:
        return {}

    @cached_property
    def _matrices(self) -> dict[str, MatrixView]:
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
    vectors: Vectors,
    engine: Engine,
    ids: Sequence[str] | None = None,
    available: Mask | None = None,
    spaces: Mapping[str, Space] | None = None,
    matrices: Mapping[str, ItemMatrix] | None = None,
    models: Mapping[str, Model] | None = None,
) -> View:
    """A catalogue in memory: without files and without fields.

    Args:
        vectors: [items, dim] unit float32.
        ids: Item id of each row; by default ``i0``, ``i1`` ...
        available: [items] whether the item may be recommended; `None` when all may.
        spaces: Spaces besides `text`, by name.
        matrices: Item-to-item matrices, by name.
        models: Other models, by name.
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
        row_of=RowTable.of(names),
        available=np.ones(items, np.bool_) if available is None else available,
        fields=ItemFields(pa.table({})),
        spaces={TEXT: Space(name=TEXT, manifest=of, items=items, vectors=vectors, engine=engine), **(spaces or {})},
        matrices=matrices or {},
        models=models or {},
    )
    return View(snapshot)
