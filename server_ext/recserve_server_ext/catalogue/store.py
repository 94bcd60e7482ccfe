"""The catalogue store: the items, durable in SQLite or PostgreSQL; every index can be rebuilt from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa

from recserve_client.contract import CatalogueItem
from recserve_server_ext.catalogue.attribute_types import AttributeTypes
from recserve_server_ext.catalogue.own_vectors import OwnVector, OwnVectors, own_in, own_since
from recserve_server_ext.catalogue.tables import (
    SCHEMA,
    attribute_types,
    items,
    own_vectors,
    removed_items,
    state,
    vectors,
)
from recserve_server_ext.common.errors import CatalogueError
from recserve_server_ext.common.workspace import store_place
from recserve_server_ext.storage.database import Database, Store, next_revision

_encode = msgspec.json.Encoder().encode
_CHUNK: Final = 1000
_FIELDS: Final = (items.c.id, items.c.texts, items.c.attributes, items.c.available)
_KNOWN_IDS: Final = sa.select(items.c.id).where(items.c.id.in_(sa.bindparam("ids", expanding=True)))


class StoredItem(msgspec.Struct, frozen=True):
    """One item of the catalogue.

    Attributes:
        texts: Text fields y_f by name, without empty ones.
        attributes: Values by name: str, int (64 bits), finite float, bool, a list of str, or a place (two floats).
        available: Whether it may be recommended.
    """

    id: str
    texts: dict[str, str]
    attributes: dict[str, Any]
    available: bool = True

    @property
    def fields(self) -> dict[str, Any]:
        """Texts and attributes by name; an attribute wins over a text of the same name."""
        return {**self.texts, **self.attributes}


class ImportRecord(msgspec.Struct, frozen=True):
    """What the catalogue was imported from; it tells whether another import would change anything.

    Attributes:
        sha256: SHA-256 of the source file.
        mapping_sha256: SHA-256 of everything that decides how rows become items.
        left_out: By attribute, values that could not be read and were left out.
    """

    name: str
    sha256: str
    mapping_sha256: str
    accepted: int
    refused: int
    refusals: dict[str, int]
    left_out: dict[str, int] = {}


class ItemRow(NamedTuple):
    """An item as it is stored.

    Attributes:
        texts_revision: Revision at which its texts were last written.
        vector: Its vector as little-endian float32, or `None` where no vector made as asked for is stored.
    """

    item: StoredItem
    texts_revision: int
    vector: bytes | None


class Head(NamedTuple):
    """The state of a catalogue besides its items.

    Attributes:
        identity: Tells this store from another one, also from one made anew in its place.
        revision: Number of changes so far.
        imported_at: Revision of the last import, which replaced every item.
        forgotten: The ids removed up to this revision are no longer known.
        field_weights: a_f by text field.
    """

    identity: str
    revision: int
    imported_at: int
    forgotten: int
    field_weights: dict[str, float]


class Changes(NamedTuple):
    """The new and changed items after a revision, in the order of their changes, and the removed ids.

    Attributes:
        own: Vectors of these items for spaces of the caller's own, by id and space.
    """

    head: Head
    items: list[ItemRow]
    removed: list[str]
    own: Mapping[str, OwnVectors]


class CatalogueStore(Store):
    """The items of the catalogue; a context manager.

    A method that writes returns once its change has been fsynced; a failed one changes nothing. Readers in other
    processes see the revision before or after a write, never one between.
    """

    def __init__(self, where: Path | str, *, create: bool = False) -> None:
        """Open a store.

        Args:
            where: A SQLite file (WAL, synchronous=FULL), or the URL of a PostgreSQL database.

        Raises:
            CatalogueError: The store is missing and `create` is false, it cannot be opened, or is no catalogue store.
        """
        super().__init__(Database(where, SCHEMA, create=create))

    def head(self) -> Head:
        """The state of the catalogue besides its items, as of one moment."""
        with self.database.reading() as connection:
            return _head(connection)

    def count(self) -> int:
        """Number of items, available or not."""
        return int(self.database.one(sa.select(sa.func.count()).select_from(items)))

    def source(self) -> ImportRecord | None:
        """What the catalogue was imported from; `None` before the first import."""
        return msgspec.convert(self.database.one(sa.select(state.c.source)), ImportRecord | None)

    def items(self, chunk: int = _CHUNK) -> Iterator[StoredItem]:
        """All items in import order, `chunk` in memory at a time, of the revision when the first is asked for."""
        query = sa.select(*_FIELDS).order_by(items.c.position)
        with self.database.reading() as connection:
            for row in connection.execution_options(yield_per=chunk).execute(query):
                yield StoredItem(*row)

    @contextmanager
    def all_rows(self, made_with: str) -> Iterator[tuple[Head, Iterator[ItemRow]]]:
        """The head and all items in import order, as of one moment.

        Args:
            made_with: Which vectors to give; see `recserve_server_ext.encoder.item_vectors.made_with`.
        """
        query = _with_vectors(made_with).order_by(items.c.position)
        with self.database.reading() as connection:
            head = _head(connection)
            yield head, _item_rows(connection.execution_options(yield_per=_CHUNK).execute(query))

    def get(self, item_id: str) -> StoredItem | None:
        """The item with this id, or `None`."""
        return self.get_many([item_id]).get(item_id)

    def get_many(self, ids: Sequence[str]) -> dict[str, StoredItem]:
        """The items with these ids; unknown ids are left out."""
        with self.database.reading() as connection:
            return {row.id: StoredItem(*row[:4]) for row in rows_of(connection, ids)}

    def own_vectors(self, spaces: Sequence[str]) -> dict[str, dict[str, OwnVector]]:
        """Vectors that came with items for these spaces, by space and item id."""
        with self.database.reading() as connection:
            return own_in(connection, spaces)

    def known(self, ids: Sequence[str]) -> set[str]:
        """Those of these ids, at most a thousand, that the catalogue has."""
        with self.database.reading() as connection:
            return set(connection.execute(_KNOWN_IDS, {"ids": ids}).scalars())

    def get_rows(self, ids: Sequence[str]) -> tuple[int, dict[str, CatalogueItem]]:
        """The revision, and the items with these ids with the revisions of their last changes."""
        with self.database.reading() as connection:
            return _head(connection).revision, {row.id: CatalogueItem(*row[:5]) for row in rows_of(connection, ids)}

    def page(self, after: str, limit: int) -> tuple[int, list[CatalogueItem]]:
        """The revision, and the next items in the order of their ids, after an id that is empty for the first page."""
        query = sa.select(*_FIELDS, items.c.revision).where(items.c.id > after).order_by(items.c.id).limit(limit)
        with self.database.reading() as connection:
            return _head(connection).revision, [CatalogueItem(*row) for row in connection.execute(query)]

    def changes_since(self, revision: int, made_with: str) -> Changes:
        """What changed after a revision, as of one moment; empty where everything was imported anew since.

        Args:
            made_with: Which vectors to give; see `recserve_server_ext.encoder.item_vectors.made_with`.

        Raises:
            CatalogueError: The changes are no longer known, or the store cannot be read.
        """
        changed = _with_vectors(made_with).where(items.c.revision > revision)
        removed = sa.select(removed_items.c.id).where(removed_items.c.revision > revision)
        with self.database.reading() as connection:
            head = _head(connection)
            if head.imported_at > revision:
                return Changes(head, [], [], {})
            self._check_known(head, revision)
            found = connection.execute(changed.order_by(items.c.revision, items.c.position))
            rows, gone = list(_item_rows(found)), list(connection.execute(removed).scalars())
            return Changes(head, rows, gone, own_since(connection, revision))

    def check_known(self, revision: int) -> None:
        """Raise CatalogueError unless `changes_since` still knows the changes after a revision."""
        head = self.head()
        if head.imported_at <= revision:
            self._check_known(head, revision)

    def _check_known(self, head: Head, revision: int) -> None:
        if head.forgotten > revision:
            raise CatalogueError(
                f"{self} has forgotten what was removed between revision {revision} and {head.forgotten}; "
                "publish a newer snapshot: recserve index activate"
            )

    def pending(self, revision: int) -> int:
        """Number of items changed or removed after a revision; 0 after an import, which needs a new index anyway."""
        counts = [
            sa.select(sa.func.count()).select_from(table).where(table.c.revision > revision)
            for table in (items, removed_items)
        ]
        with self.database.reading() as connection:
            if _head(connection).imported_at > revision:
                return 0
            return sum(connection.execute(count).scalar_one() for count in counts)

    def replace_all(
        self,
        new_items: Iterable[StoredItem],
        *,
        field_weights: Mapping[str, float],
        source: ImportRecord | Callable[[], ImportRecord] | None = None,
    ) -> int:
        """Replace the whole catalogue in one transaction; memory does not grow with the number of items.

        Items that stay keep their vectors in spaces of the caller's own.

        Args:
            new_items: The new items, in import order; when it raises, the old catalogue stays.
            source: What to remember of the source; a callable is called after the last item.

        Returns:
            The new revision.

        Raises:
            CatalogueError: An id occurs twice, an attribute has two types, a value cannot be stored, or the store
                cannot be written.
        """
        with self.database.writing() as connection:
            revision = next_revision(connection, state)
            for table in (items, removed_items, vectors, attribute_types):
                connection.execute(sa.delete(table))
            _insert(connection, new_items, revision)
            connection.execute(sa.delete(own_vectors).where(own_vectors.c.id.not_in(sa.select(items.c.id))))
            record = source() if callable(source) else source
            values = {"field_weights": dict(field_weights), "source": msgspec.to_builtins(record)}
            connection.execute(sa.update(state).values(imported_at=revision, **values))
            return revision


def opener(where: str) -> Callable[[], CatalogueStore]:
    """A function that opens a store at its first call, and tries again while that fails."""
    return cache(lambda: CatalogueStore(store_place(where)))


def rows_of(connection: sa.Connection, ids: Sequence[str]) -> Iterator[sa.Row[*tuple[Any, ...]]]:
    """Rows (id, texts, attributes, available, revision, texts_revision) of the items with these ids."""
    query = sa.select(*_FIELDS, items.c.revision, items.c.texts_revision)
    for start in range(0, len(ids), _CHUNK):
        yield from connection.execute(query.where(items.c.id.in_(ids[start : start + _CHUNK])))


def row_values(item: StoredItem, revision: int, texts_revision: int) -> dict[str, Any]:
    """The columns of an item; raises CatalogueError for a value that cannot be stored."""
    _packed(item)
    return {**msgspec.structs.asdict(item), "revision": revision, "texts_revision": texts_revision}


def _packed(item: StoredItem) -> tuple[str, str, str]:
    """Id, texts and attributes of an item as the database holds them; raises CatalogueError as `row_values`."""
    for name, value in item.attributes.items():
        # JSON has no NaN: it would come back as null.
        if isinstance(value, float) and not math.isfinite(value):
            raise CatalogueError(f"item {item.id!r}: attribute {name!r} is {value}; numbers must be finite")
    try:
        item.id.encode()
        return item.id, _encode(item.texts).decode(), _encode(item.attributes).decode()
    except (UnicodeEncodeError, TypeError, msgspec.MsgspecError) as error:
        raise CatalogueError(f"item {item.id!r} cannot be stored: {error}") from None


def _head(connection: sa.Connection) -> Head:
    return Head(*connection.execute(sa.select(*(state.c[name] for name in Head._fields))).one())


def _with_vectors(made_with: str) -> sa.Select[Any]:
    """All items with the columns of an `ItemRow`."""
    vector = sa.and_(vectors.c.id == items.c.id, vectors.c.made_with == made_with)
    return sa.select(*_FIELDS, items.c.texts_revision, vectors.c.vector).select_from(items.outerjoin(vectors, vector))


def _item_rows(found: Iterable[sa.Row[*tuple[Any, ...]]]) -> Iterator[ItemRow]:
    return (ItemRow(StoredItem(*row[:4]), row[4], row[5]) for row in found)


def _insert(connection: sa.Connection, new_items: Iterable[StoredItem], revision: int) -> None:
    rest = iter(new_items)
    position = 0
    types = AttributeTypes()
    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    statement = (
        "INSERT INTO items (id, texts, attributes, available, revision, texts_revision) "
        f"VALUES ({', '.join([mark] * 6)})"
    )
    while chunk := list(islice(rest, _CHUNK)):
        rows = [(*_packed(item), item.available, revision, revision) for item in chunk]
        for item in filter(attrgetter("attributes"), chunk):
            if conflict := types.conflict(item.attributes):
                raise CatalogueError(f"item {item.id!r}: {conflict}")
            types.replace({}, item.attributes if item.available else {})
        try:
            connection.exec_driver_sql(statement, rows)
        except sa.exc.IntegrityError as error:
            where = f"items {position} to {position + len(chunk) - 1}, {chunk[0].id!r} to {chunk[-1].id!r}"
            raise CatalogueError(f"item ids must be distinct: one of {where}, occurred before") from error
        position += len(chunk)
    types.write(connection)
