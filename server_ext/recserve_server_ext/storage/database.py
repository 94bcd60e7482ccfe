"""The database behind a store: a SQLite file (WAL, synchronous=FULL) or PostgreSQL by URL, migrated by alembic."""

from __future__ import annotations

import sqlite3
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cache, lru_cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.sql.compiler import SQLCompiler

from recserve_server_ext.common.errors import StoreError
from recserve_server_ext.common.files import fsync_path

if TYPE_CHECKING:
    from alembic.config import Config

#: How long a writer waits for another writer, and a new connection for the database server.
WAIT_S: Final = 10.0
#: Between two attempts to empty the write-ahead log.
_PAUSE_S: Final = 0.02
#: 64-bit integers; SQLite numbers rows by itself only in a column of its own type.
BIG_INTEGER: Final = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_NOTHING: Final[Mapping[str, object]] = {}
_MIGRATIONS: Final = Path(__file__).with_name("migrations")


class Schema(NamedTuple):
    """What a store keeps in its database.

    Attributes:
        name: Name of the store. Its migrations are in `migrations/<name>`, alembic's table is `<name>_version`.
        head: The newest migration, which this version reads and writes.
        state: The one of them with a single row, which holds the `revision` and `identity` of the store.
        error: What failures of the store raise.
        advice: What the user can do when the store is missing or does not fit.
        overwrites: Whether SQLite overwrites deleted rows with zeros.
    """

    name: str
    head: str
    tables: sa.MetaData
    state: sa.Table
    error: type[StoreError]
    advice: str
    overwrites: bool = False


class Database:
    """The engine of one store; errors of the database come out as the store's own.

    A writer waits for the writer before it, and only then reads: by BEGIN IMMEDIATE in SQLite, by an advisory lock of
    the store in PostgreSQL. So both commit revisions in their order.
    """

    def __init__(self, where: Path | str, schema: Schema, *, create: bool = False) -> None:
        """Open the database and bring its tables to the newest schema.

        Args:
            where: A SQLite file, or a URL such as ``postgresql://user@host/name``.
            create: Whether to make missing tables, and a missing file with its folder.

        Raises:
            StoreError: (the schema's) The store is missing and `create` is false, it cannot be opened, or another
                version of recserve made it.
        """
        self.schema = schema
        self.path = where if isinstance(where, Path) else None
        #: The file, or the URL without its password.
        self.shown = str(where) if isinstance(where, Path) else sa.make_url(where).render_as_string()
        if self.path is not None:
            self._prepare_file(self.path, create=create)
        self._watch: PoolProxiedConnection | None = None
        self._marked = (-1, 0)
        self._ask_revision = str(_revision(schema.state))
        self._lock = zlib.crc32(schema.name.encode())
        self._engine = _engine(where, overwrites=schema.overwrites)
        try:
            self._migrate(create=create)
        except BaseException:
            self._engine.dispose()
            raise

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a SQLite file."""
        return self.path is not None

    @property
    def revision(self) -> int:
        """Number of changes committed so far."""
        return int(self.one(_revision(self.schema.state)))

    def close(self) -> None:
        """Close the connections."""
        if self._watch is not None:
            self._watch.close()
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection whose queries see one state of the database."""
        with self._explained(), self._engine.connect() as connection:
            if not self.is_sqlite:
                connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction: committed and fsynced when the block ends well, else undone."""
        with self._explained(), self._engine.connect() as connection:
            connection.execution_options(writes=True)
            with connection.begin():
                if not self.is_sqlite:
                    connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": self._lock})
                yield connection

    def one(self, query: sa.Select[Any]) -> Any:
        """The single value of a query."""
        with self.reading() as connection:
            return connection.execute(query).scalar_one()

    def mark(self) -> int:
        """The revision; SQLite reads it again only after a commit. Not to be called by two threads at a time."""
        if not self.is_sqlite:
            return self.revision
        with self._explained():
            if self._watch is None:
                self._watch = self._engine.raw_connection()
            # First: a commit between the two statements is seen at the next call.
            commits = _value(self._watch, "PRAGMA data_version")
            if commits != self._marked[0]:
                self._marked = commits, _value(self._watch, self._ask_revision)
        return self._marked[1]

    def purge(self) -> bool:
        """Leave no bytes of deleted rows: empty SQLite's write-ahead log, or vacuum PostgreSQL's tables.

        False where a reader keeps SQLite's log in use.
        """
        if self.is_sqlite:
            give_up = time.monotonic() + WAIT_S
            # SQLite itself waits for readers, but not for a writer that moves the log just now.
            while (is_busy := self._pragma("wal_checkpoint(TRUNCATE)")) and time.monotonic() < give_up:
                time.sleep(_PAUSE_S)
            return not is_busy
        with self._explained(), self._engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.exec_driver_sql(f"VACUUM {', '.join(self.schema.tables.tables)}")
        return True

    def _pragma(self, pragma: str) -> Any:
        """The first value of a PRAGMA that must be outside of any transaction."""
        with self._explained(), closing(self._engine.raw_connection()) as connection:
            return _value(connection, f"PRAGMA {pragma}")

    def _prepare_file(self, path: Path, *, create: bool) -> None:
        if not create and not path.is_file():
            raise self.schema.error(f"no {self.schema.name} store at {path}; {self.schema.advice}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self.schema.error(f"the folder {path.parent} cannot be made: {error}") from error

    def _migrate(self, *, create: bool) -> None:
        with self.reading() as connection:
            found = self._version(connection)
            # Other programs may share a database server, but not a file.
            foreign = self.is_sqlite and found is None and bool(sa.inspect(connection).get_table_names())
        if found == self.schema.head:
            return
        if found is None and (foreign or not create):
            raise self.schema.error(f"{self.shown} is not a {self.schema.name} store; {self.schema.advice}")
        if self.is_sqlite:
            self._pragma("journal_mode=WAL")  # the file keeps it
        with self.writing() as connection:
            self._upgrade(connection)
        if self.path is not None:
            fsync_path(self.path.parent)

    def _version(self, connection: sa.Connection) -> str | None:
        table = f"{self.schema.name}_version"
        if not sa.inspect(connection).has_table(table):
            return None
        found = connection.execute(sa.text(f"SELECT version_num FROM {table}")).scalar_one_or_none()
        return None if found is None else str(found)

    def _upgrade(self, connection: sa.Connection) -> None:
        """Make the tables of a new store at the newest schema, or run the migrations that an older one lacks."""
        # Here, since importing alembic takes a while and only a new or an old database needs it.
        from alembic import command
        from alembic.util import CommandError

        config = alembic_config(self.schema)
        config.attributes |= {"connection": connection, "version_table": f"{self.schema.name}_version"}
        # Asked again in this transaction: another process may have made the tables meanwhile.
        if self._version(connection) is None:
            _share_conditions(self.schema.tables)
            self.schema.tables.create_all(connection)
            connection.execute(sa.insert(self.schema.state), {"id": 1})
            command.stamp(config, "head")
            return
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise self.schema.error(
                f"{self.shown} was made by another version of recserve ({error}); name another file or an empty "
                f"database, and {self.schema.advice}"
            ) from error

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of the database into the store's own."""
        try:
            yield
        except (sa.exc.SQLAlchemyError, self._engine.dialect.loaded_dbapi.Error) as error:
            cause = getattr(error, "orig", None) or error
            is_busy = getattr(cause, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
            hint = "; another process is writing to it, try again" if is_busy else ""
            raise self.schema.error(
                f"the {self.schema.name} store {self.shown} cannot be used: {cause}{hint}"
            ) from error


def _share_conditions(tables: sa.MetaData) -> None:
    """Give the indexes of PostgreSQL the conditions of SQLite's, which alone are declared.

    A declared one would import the dialect of PostgreSQL in every process, for SQLite too.
    """
    for table in tables.tables.values():
        for index in table.indexes:
            index.dialect_options["postgresql"]["where"] = index.dialect_options["sqlite"]["where"]


def alembic_config(schema: Schema) -> Config:
    """What alembic has to know of a store's migrations."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("version_locations", str(_MIGRATIONS / schema.name))
    config.set_main_option("path_separator", "os")
    return config


class Store:
    """Base of the stores: a context manager around a database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __str__(self) -> str:
        return self.database.shown

    @property
    def revision(self) -> int:
        """Number of changes committed so far; it grows by one with each."""
        return self.database.revision

    @property
    def identity(self) -> str:
        """Drawn when the store was made: tells it from another one, also from one made anew in its place."""
        return str(self.database.one(sa.select(self.database.schema.state.c.identity)))

    def mark(self) -> int:
        """The revision, for next to nothing where nothing was committed (SQLite); see `Database.mark`."""
        return self.database.mark()

    def close(self) -> None:
        """Close the connections."""
        self.database.close()


def state_table(name: str, tables: sa.MetaData, *columns: sa.Column[Any]) -> sa.Table:
    """The table of a store's state, one row: its identity, its revision, and more columns with defaults."""
    return sa.Table(
        name,
        tables,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("identity", sa.Text, nullable=False, default=lambda: uuid.uuid4().hex),
        sa.Column("revision", BIG_INTEGER, nullable=False, default=0),
        *columns,
    )


def fetched(
    connection: sa.Connection, query: sa.Executable, parameters: Mapping[str, object] = _NOTHING
) -> list[tuple[Any, ...]]:
    """All rows of a query as the driver gives them, in a fraction of the time that SQLAlchemy takes for a short one.

    Not for columns that SQLAlchemy has to convert, nor for lists that it has to expand.
    """
    compiled = _compiled(query, connection.dialect)
    values = {**compiled.params, **parameters}
    order = compiled.positiontup
    with closing(connection.connection.cursor()) as cursor:
        cursor.execute(compiled.string, values if order is None else [values[name] for name in order])
        return list(cursor.fetchall())


def executed(connection: sa.Connection, insert: sa.Insert, rows: Sequence[Mapping[str, object]]) -> None:
    """Insert some rows as the driver does; see `fetched`."""
    compiled = _compiled(insert, connection.dialect, tuple(name for name in rows[0] if name in insert.table.c))
    order = compiled.positiontup
    with closing(connection.connection.cursor()) as cursor:
        cursor.executemany(compiled.string, rows if order is None else [[row[name] for name in order] for row in rows])


@lru_cache(maxsize=256)
def _compiled(statement: sa.Executable, dialect: sa.Dialect, columns: tuple[str, ...] | None = None) -> SQLCompiler:
    assert isinstance(statement, sa.ClauseElement)
    compiled = statement.compile(dialect=dialect, column_keys=columns)
    assert isinstance(compiled, SQLCompiler)
    return compiled


def next_revision(connection: sa.Connection, state: sa.Table) -> int:
    """Count a change in the state of a store; the new revision."""
    return int(fetched(connection, _next_revision(state))[0][0])


# Made once: making a statement takes longer than running a short one.
@cache
def _revision(state: sa.Table) -> sa.Select[Any]:
    return sa.select(state.c.revision)


@cache
def _next_revision(state: sa.Table) -> sa.Executable:
    return sa.update(state).values(revision=state.c.revision + 1).returning(state.c.revision)


def _engine(where: Path | str, *, overwrites: bool) -> sa.Engine:
    options: dict[str, Any] = {
        "json_serializer": lambda value: msgspec.json.encode(value).decode(),
        "json_deserializer": msgspec.json.decode,
        # Errors may be logged, and parameters hold pseudonyms.
        "hide_parameters": True,
    }
    if not isinstance(where, Path):
        url = sa.make_url(where).set(drivername="postgresql+psycopg")
        # A connection that a restarted server dropped is replaced before it is used.
        return sa.create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": int(WAIT_S)}, **options)

    def configure(connection: DBAPIConnection, _record: object) -> None:
        assert isinstance(connection, sqlite3.Connection)
        # sqlite3 would begin transactions late and leave DDL out of them; the "begin" listener begins them instead.
        connection.isolation_level = None
        connection.execute("PRAGMA synchronous=FULL")
        if overwrites:
            connection.execute("PRAGMA secure_delete=ON")

    engine = sa.create_engine(sa.URL.create("sqlite", database=str(where)), connect_args={"timeout": WAIT_S}, **options)
    sa.event.listen(engine, "connect", configure)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.connection.cursor().execute("BEGIN IMMEDIATE" if writes else "BEGIN")


def _value(connection: PoolProxiedConnection, statement: str) -> Any:
    with closing(connection.cursor()) as cursor:
        cursor.execute(statement)
        found: Any = cursor.fetchone()
        return found[0]
