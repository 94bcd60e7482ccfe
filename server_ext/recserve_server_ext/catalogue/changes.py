"""One change of the catalogue: items put in or taken out in one transaction."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import msgspec
import sqlalchemy as sa

from recserve_client.contract import ItemResult, ItemsChanged, shown
from recserve_server_ext.catalogue.attribute_types import AttributeTypes
from recserve_server_ext.catalogue.item_checks import type_change
from recserve_server_ext.catalogue.own_vectors import OwnVector, OwnVectors, own_of, write_own
from recserve_server_ext.catalogue.store import CatalogueStore, Head, StoredItem, row_values, rows_of
from recserve_server_ext.catalogue.tables import items, own_vectors, removed_items, state, vectors, writes
from recserve_server_ext.storage.database import next_revision

_CHUNK: Final = 1000
#: Changes whose answers are kept, so that a change that is sent again is not made again.
KEPT_WRITES: Final = 1000
Status = Literal["created", "updated", "unchanged", "deleted", "absent", "conflict", "refused"]


class Put(NamedTuple):
    """An item to put in.

    Attributes:
        vector: Its vector as little-endian float32; `None` where its texts are the stored ones.
        if_revision: Revision that its last change must have; `None` for any.
        own: Its vectors for spaces of the caller's own, by space; it keeps those of other spaces.
    """

    item: StoredItem
    vector: bytes | None
    if_revision: int | None
    own: OwnVectors

    @property
    def id(self) -> str:
        """Item id."""
        return self.item.id


class Take(NamedTuple):
    """An item to take out; for `if_revision` see `Put`."""

    id: str
    if_revision: int | None


class Request(NamedTuple):
    """What identifies a change: the caller's id, which may be empty, and a hash of the content."""

    id: str
    digest: str


class RequestIdReusedError(Exception):
    """Another change was made under this request id."""


class ChangedMeanwhileError(Exception):
    """The catalogue was imported anew, or the texts of an item that was to keep its vector changed."""


@dataclass
class _Change:
    """A change while it is decided item by item; `updated` has the revision of the texts where these stay."""

    results: list[ItemResult] = field(default_factory=list)
    created: list[StoredItem] = field(default_factory=list)
    updated: list[tuple[StoredItem, int | None]] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    vectors: dict[str, bytes] = field(default_factory=dict)
    own: dict[str, OwnVectors] = field(default_factory=dict)
    types: AttributeTypes = field(default_factory=AttributeTypes)


def answered(store: CatalogueStore, request: Request) -> ItemsChanged | None:
    """The answer to a change that was made before under this id; `None` where there was none.

    Raises:
        RequestIdReusedError: Another change was made under it.
        CatalogueError: The store cannot be read.
    """
    if not request.id:
        return None
    with store.database.reading() as connection:
        return _answered(connection, request)


def change(
    store: CatalogueStore, changes: Sequence[Put | Take | ItemResult], request: Request, head: Head, made_with: str
) -> ItemsChanged:
    """Make a change; it has been fsynced when this returns.

    Args:
        changes: Distinct items; a refused item is given by its result.
        head: The state of the catalogue that the vectors were made for.
        made_with: What made the vectors; see `recserve_server_ext.encoder.item_vectors.made_with`.

    Returns:
        The revision with the change, and a result for each item. A change that changes nothing keeps the revision.

    Raises:
        RequestIdReusedError: Nothing was done.
        ChangedMeanwhileError: Nothing was done; begin anew.
        CatalogueError: The store cannot be written; nothing was done.
    """
    with store.database.writing() as connection:
        if (before := _answered(connection, request)) is not None:
            return before
        stored = connection.execute(sa.select(state.c.imported_at, state.c.revision)).one()
        if stored.imported_at != head.imported_at:
            raise ChangedMeanwhileError
        decided = _decide(connection, changes)
        revision = int(stored.revision)
        if decided.created or decided.updated or decided.taken:
            revision = next_revision(connection, state)
            _write(connection, decided, revision, made_with)
        answer = ItemsChanged(revision, decided.results)
        _remember(connection, request, answer)
    return answer


def _decide(connection: sa.Connection, changes: Sequence[Put | Take | ItemResult]) -> _Change:
    ids = [change.id for change in changes if not isinstance(change, ItemResult)]
    stored = {row.id: row for row in rows_of(connection, ids)}
    own = own_of(connection, [change.id for change in changes if isinstance(change, Put) and change.own])
    names = {name for row in stored.values() for name in row.attributes}
    names.update(name for change in changes if isinstance(change, Put) for name in change.item.attributes)
    decided = _Change(types=AttributeTypes.read(connection, sorted(names)))
    for place, change in enumerate(changes):
        if isinstance(change, ItemResult):
            decided.results.append(change)
        else:
            decided.results.append(_decide_one(decided, place, change, stored.get(change.id), own.get(change.id, {})))
    return decided


def _decide_one(
    decided: _Change,
    place: int,
    change: Put | Take,
    row: sa.Row[*tuple[Any, ...]] | None,
    own: Mapping[str, OwnVector],
) -> ItemResult:
    if change.if_revision is not None and change.if_revision != (0 if row is None else row.revision):
        return ItemResult(change.id, "conflict")
    before = row.attributes if row is not None and row.available else {}
    if isinstance(change, Take):
        if row is None:
            return ItemResult(change.id, "absent")
        decided.taken.append(change.id)
        decided.types.replace(before, {})
        return ItemResult(change.id, "deleted")
    attributes = change.item.attributes
    why = type_change({} if row is None else row.attributes, attributes) or decided.types.conflict(attributes)
    if why:
        return ItemResult(change.id, "refused", f"$.items[{place}], {shown(change.id)}: {why}", "attribute_type")
    status = _put(decided, change, row, own)
    if status != "unchanged":
        decided.types.replace(before, attributes if change.item.available else {})
    return ItemResult(change.id, status)


def _put(decided: _Change, change: Put, row: sa.Row[*tuple[Any, ...]] | None, own: Mapping[str, OwnVector]) -> Status:
    keeps_texts = row is not None and row.texts == change.item.texts
    if not keeps_texts:
        if change.vector is None:
            raise ChangedMeanwhileError
        decided.vectors[change.item.id] = change.vector
    if new := {space: vector for space, vector in change.own.items() if own.get(space) != vector}:
        decided.own[change.id] = new
    if row is None:
        decided.created.append(change.item)
        return "created"
    if StoredItem(*row[:4]) == change.item and not new:
        return "unchanged"
    decided.updated.append((change.item, row.texts_revision if keeps_texts else None))
    return "updated"


def _write(connection: sa.Connection, decided: _Change, revision: int, made_with: str) -> None:
    decided.types.write(connection)
    _delete(connection, removed_items, [item.id for item in decided.created])
    _delete(connection, items, decided.taken)
    _delete(connection, vectors, [*decided.taken, *decided.vectors])
    _delete(connection, own_vectors, decided.taken)
    write_own(connection, decided.own)
    if decided.created:
        connection.execute(sa.insert(items), [row_values(item, revision, revision) for item in decided.created])
    if decided.updated:
        rows = [row_values(item, revision, kept or revision) for item, kept in decided.updated]
        columns = {name: sa.bindparam(f"new_{name}", type_=items.c[name].type) for name in rows[0] if name != "id"}
        query = sa.update(items).where(items.c.id == sa.bindparam("new_id")).values(columns)
        connection.execute(query, [{f"new_{name}": value for name, value in row.items()} for row in rows])
    if decided.taken:
        connection.execute(sa.insert(removed_items), [{"id": name, "revision": revision} for name in decided.taken])
    if decided.vectors:
        rows = [{"id": name, "made_with": made_with, "vector": raw} for name, raw in decided.vectors.items()]
        connection.execute(sa.insert(vectors), rows)


def _delete(connection: sa.Connection, table: sa.Table, ids: Sequence[str]) -> None:
    for start in range(0, len(ids), _CHUNK):
        connection.execute(sa.delete(table).where(table.c.id.in_(ids[start : start + _CHUNK])))


def _answered(connection: sa.Connection, request: Request) -> ItemsChanged | None:
    query = sa.select(writes.c.digest, writes.c.answer).where(writes.c.request_id == request.id)
    row = connection.execute(query).one_or_none() if request.id else None
    if row is None:
        return None
    if row.digest != request.digest:
        raise RequestIdReusedError
    answer = msgspec.json.decode(zlib.decompress(row.answer), type=ItemsChanged)
    return msgspec.structs.replace(answer, is_replay=True)


def _remember(connection: sa.Connection, request: Request, answer: ItemsChanged) -> None:
    """Keep the answer, and only the last `KEPT_WRITES`."""
    if not request.id:
        return
    packed = zlib.compress(msgspec.json.encode(answer), level=1)
    row = {"request_id": request.id, "digest": request.digest, "answer": packed}
    number = connection.execute(sa.insert(writes).returning(writes.c.number), row).scalar_one()
    connection.execute(sa.delete(writes).where(writes.c.number <= number - KEPT_WRITES))


def forget_before(store: CatalogueStore, revision: int) -> None:
    """Drop what only snapshots older than a revision need: removed ids, and vectors that newer snapshots hold."""
    old = sa.select(items.c.id).where(items.c.texts_revision <= revision)
    with store.database.writing() as connection:
        connection.execute(sa.delete(removed_items).where(removed_items.c.revision <= revision))
        connection.execute(sa.delete(vectors).where(vectors.c.id.in_(old)))
        connection.execute(sa.update(state).values(forgotten=revision))
