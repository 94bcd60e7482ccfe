"""The catalogue store: the items, durable in one SQLite file; every index can be rebuilt from it."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection

from recserve_server_ext.durable import fsync_path
from recserve_server_ext.errors import CatalogueError

#: Version of the tables below; a store of another format is refused.
FORMAT: Final = 1
_CHUNK: Final = 1000
_BUSY_TIMEOUT_S: Final = 10.0
_SQLITE_BUSY: Final = 5  # `sqlite3` names it only from Python 3.11 on
_IMPORT: Final = "recserve catalogue import SOURCE"

_metadata = sa.MetaData()
_items = sa.Table(
    "items",
    _metadata,
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("texts", sa.JSON, nullable=False),
    sa.Column("attributes", sa.JSON, nullable=False),
    sa.Column("available", sa.Boolean, nullable=False),
)
#: One row.
_state = sa.Table(
    "state",
    _metadata,
    sa.Column("format", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("field_weights", sa.JSON, nullable=False),
    sa.Column("source", sa.JSON, nullable=False),
)
_FIELDS: Final = (_items.c.id, _items.c.texts, _items.c.attributes, _items.c.available)


class StoredItem(msgspec.Struct, frozen=True):
    """One item of the catalogue.

    Attributes:
        id: Item id.
        texts: Text fields y_f by name, empty ones left out.
        attributes: Values by name: str, int (64 bits), finite float, bool, or a list of str.
        available: Whether it may be recommended.
    """

    id: str
    texts: dict[str, str]
    attributes: dict[str, Any]
    available: bool = True


class ImportRecord(msgspec.Struct, frozen=True):
    """What the catalogue was imported from: tells whether an import would change anything.

    Attributes:
        name: Name of the source.
        sha256: Of the source file.
        mapping_sha256: Of everything that decides how its rows become items.
        accepted: Number of items.
        refused: Number of rows that were refused.
        refusals: The refused rows by reason.
    """

    name: str
    sha256: str
    mapping_sha256: str
    accepted: int
    refused: int
    refusals: dict[str, int]


class CatalogueStore:
    """The items of the catalogue in one SQLite file (WAL, synchronous=FULL); a context manager.

    A method that writes returns once its change has been fsynced, and a failed one changes nothing. Readers in other
    processes see the revision before or after a write, never one between.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Open a store.

        Args:
            path: The SQLite file.
            create: Whether to make it, and its folder, when it is not there.

        Raises:
            CatalogueError: There is none and `create` is false, or the file is not a catalogue store.
        """
        self.path = path
        if not create and not path.is_file():
            raise CatalogueError(f"no catalogue at {path}; make one with: {_IMPORT}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CatalogueError(f"the folder {path.parent} cannot be made: {error}") from error
        self._engine = _engine(path)
        try:
            with self._explained():
                self._prepare(create=create)
        except BaseException:
            self._engine.dispose()
            raise

    def __enter__(self) -> CatalogueStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the file."""
        self._engine.dispose()

    @property
    def revision(self) -> int:
        """Number of changes committed so far; it grows by one with each."""
        return int(self._one(sa.select(_state.c.revision)))

    def count(self) -> int:
        """Number of items, available or not."""
        return int(self._one(sa.select(sa.func.count()).select_from(_items)))

    def field_weights(self) -> dict[str, float]:
        """a_f of v = normalise(sum_f a_f G(y_f)) for every text field; empty before the first import."""
        weights: dict[str, float] = self._one(sa.select(_state.c.field_weights))
        return weights

    def source(self) -> ImportRecord | None:
        """What the catalogue was imported from, none before the first import."""
        return msgspec.convert(self._one(sa.select(_state.c.source)), ImportRecord | None)

    def items(self, chunk: int = _CHUNK) -> Iterator[StoredItem]:
        """All items in import order, of one revision: the one committed when the first is asked for.

        Args:
            chunk: Rows held in memory at a time.
        """
        query = sa.select(*_FIELDS).order_by(_items.c.position)
        with self._explained(), self._engine.connect() as connection:
            for row in connection.execution_options(yield_per=chunk).execute(query):
                yield StoredItem(*row)

    def get(self, item_id: str) -> StoredItem | None:
        """The item with this id, or none."""
        query = sa.select(*_FIELDS).where(_items.c.id == item_id)
        with self._explained(), self._engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else StoredItem(*row)

    def replace_all(
        self,
        items: Iterable[StoredItem],
        *,
        field_weights: Mapping[str, float],
        source: ImportRecord | Callable[[], ImportRecord] | None = None,
    ) -> int:
        """Replace the whole catalogue in one transaction; memory does not grow with the number of items.

        Args:
            items: The new items, in import order; when it raises, the old catalogue stays.
            field_weights: a_f of every text field.
            source: What to remember of the source; a callable is called after the last item.

        Returns:
            The new revision.

        Raises:
            CatalogueError: An id occurs twice, a value cannot be stored, or the file cannot be written.
        """
        with self._explained(), self._engine.begin() as connection:
            # First of all, since it takes the write lock: a second writer waits here, before it has read anything.
            connection.execute(sa.update(_state).values(revision=_state.c.revision + 1))
            connection.execute(sa.delete(_items))
            _insert(connection, items)
            record = source() if callable(source) else source
            connection.execute(
                sa.update(_state).values(field_weights=dict(field_weights), source=msgspec.to_builtins(record))
            )
            return int(connection.execute(sa.select(_state.c.revision)).scalar_one())

    def _prepare(self, *, create: bool) -> None:
        with self._engine.connect() as connection:
            tables = set(sa.inspect(connection).get_table_names())
        if create and not tables:
            self._make_tables()
        elif not {"items", "state"} <= tables:
            raise CatalogueError(f"{self.path} is not a catalogue store; move it away and run: {_IMPORT}")
        found = self._one(sa.select(_state.c.format))
        if found != FORMAT:
            raise CatalogueError(
                f"{self.path} has format {found}, this version reads {FORMAT}; remove it and run: {_IMPORT}"
            )

    def _make_tables(self) -> None:
        pooled = self._engine.raw_connection()
        try:
            pooled.cursor().execute("PRAGMA journal_mode=WAL")  # kept by the file; not possible in a transaction
        finally:
            pooled.close()
        with self._engine.begin() as connection:
            _metadata.create_all(connection)
            empty = {"format": FORMAT, "revision": 0, "field_weights": {}, "source": None}
            connection.execute(sa.insert(_state), empty)
        fsync_path(self.path.parent)

    def _one(self, query: sa.Select[Any]) -> Any:
        with self._explained(), self._engine.connect() as connection:
            return connection.execute(query).scalar_one()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of the database into `CatalogueError`."""
        try:
            yield
        except sa.exc.DBAPIError as error:
            code = getattr(error.orig, "sqlite_errorcode", 0)
            advice = "; another process is writing to it, try again" if code & 0xFF == _SQLITE_BUSY else ""
            raise CatalogueError(f"the catalogue store {self.path} cannot be used: {error.orig}{advice}") from error
        except sa.exc.SQLAlchemyError as error:
            raise CatalogueError(f"the catalogue store {self.path} cannot be used: {error}") from error


def _engine(path: Path) -> sa.Engine:
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        connect_args={"timeout": _BUSY_TIMEOUT_S},
        json_serializer=lambda value: msgspec.json.encode(value).decode(),
        json_deserializer=msgspec.json.decode,
    )
    sa.event.listen(engine, "connect", _configure)
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


def _configure(connection: DBAPIConnection, _record: object) -> None:
    assert isinstance(connection, sqlite3.Connection)
    # sqlite3 would begin transactions late and leave DDL out of them; the "begin" listener begins them instead.
    connection.isolation_level = None
    connection.execute("PRAGMA synchronous=FULL")


def _insert(connection: sa.Connection, items: Iterable[StoredItem]) -> None:
    rest = iter(items)
    position = 0
    while chunk := list(islice(rest, _CHUNK)):
        rows = [_row(position + offset, item) for offset, item in enumerate(chunk)]
        try:
            connection.execute(sa.insert(_items), rows)
        except sa.exc.IntegrityError as error:
            where = f"items {position} to {position + len(chunk) - 1}, {chunk[0].id!r} to {chunk[-1].id!r}"
            raise CatalogueError(f"item ids must be distinct: one of {where}, occurred before") from error
        position += len(chunk)


def _row(position: int, item: StoredItem) -> dict[str, Any]:
    for name, value in item.attributes.items():
        # JSON has no NaN: it would come back as null.
        if isinstance(value, float) and not math.isfinite(value):
            raise CatalogueError(f"item {item.id!r}: attribute {name!r} is {value}; numbers must be finite")
    try:
        msgspec.json.encode(item)
    except (UnicodeEncodeError, TypeError, msgspec.MsgspecError) as error:
        raise CatalogueError(f"item {item.id!r} cannot be stored: {error}") from None
    return {"position": position, **msgspec.structs.asdict(item)}
