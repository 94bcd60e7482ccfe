"""One database behind a store: a SQLite file (WAL, synchronous=FULL) or PostgreSQL by URL, migrated by alembic."""

from __future__ import annotations

import sqlite3
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from urllib.parse import quote

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection

from recserve_server_ext.common.errors import StoreError
from recserve_server_ext.common.files import fsync_path

#: How long a writer waits for another one, and a connection for the server.
WAIT_S: Final = 10.0
#: Between two attempts to move the log.
_PAUSE_S: Final = 0.02
_SQLITE_BUSY: Final = 5  # `sqlite3` names it only from Python 3.11 on
_MIGRATIONS: Final = Path(__file__).with_name("migrations")


class Schema(NamedTuple):
    """What a store keeps in its database.

    Attributes:
        name: Of the store: `migrations/<name>` holds its migrations, `<name>_version` is alembic's table.
        head: The newest migration, which this version reads and writes.
        error: What its failures raise.
        advice: What to do when there is none, or none that fits.
    """

    name: str
    head: str
    error: type[StoreError]
    advice: str


class Database:
    """The engine of one store; errors of the database come out as the store's own.

    A writer waits for the one before it, before it has read anything: BEGIN IMMEDIATE in SQLite, an advisory lock of
    the store in PostgreSQL. So revisions are committed in their order, in both.
    """

    def __init__(self, where: Path | str, schema: Schema, *, create: bool = False) -> None:
        """Open it and bring its tables to the newest schema.

        Args:
            where: A SQLite file, or a URL such as ``postgresql://user@host/name``.
            schema: Of the store.
            create: Whether to make the tables (and the file with its folder) when they are not there.

        Raises:
            StoreError: (the schema's) There is none and `create` is false, it cannot be opened, or another version of
                recserve made it.
        """
        self.schema = schema
        self.path = where if isinstance(where, Path) else None
        #: Without a password.
        self.shown = str(where) if isinstance(where, Path) else sa.make_url(where).render_as_string()
        if self.path is not None:
            self._prepare_file(self.path, create=create)
        self._marks: sqlite3.Connection | None = None
        self._latest: tuple[sa.Select[Any], int, int] | None = None
        self._lock = zlib.crc32(schema.name.encode())
        self._engine = _engine(where)
        try:
            self._migrate(create=create)
        except BaseException:
            self._engine.dispose()
            raise

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a SQLite file."""
        return self._engine.dialect.name == "sqlite"

    def close(self) -> None:
        """Close the connections."""
        if self._marks is not None:
            self._marks.close()
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection whose queries see one state of the database."""
        with self._explained(), self._engine.connect() as connection:
            if not self.is_sqlite:
                connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that is committed, and fsynced, when the block ends well, and undone otherwise."""
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

    def mark(self, query: sa.Select[Any]) -> int:
        """A number that changes whenever something was committed. Not to be called by two threads at a time.

        Args:
            query: Its value changes with every commit; asked where the database has no cheaper way.
        """
        if self.path is None:
            return int(self.one(query))
        # Differs when another connection has committed; this one never does.
        return self._plain_value(self.path, "PRAGMA data_version")

    def latest(self, query: sa.Select[Any]) -> int:
        """The number that a query without parameters finds. Not to be called by two threads at a time, nor is `mark`.

        SQLite runs it again only when something was committed since.

        Args:
            query: The same object every time.
        """
        if self.path is None:
            return int(self.one(query))
        # First: what is committed between the two is looked for again next time.
        mark = self.mark(query)
        if self._latest is None or self._latest[:2] != (query, mark):
            self._latest = query, mark, self._plain_value(self.path, str(query))
        return self._latest[2]

    def empty_log(self) -> bool:
        """Move all of SQLite's write-ahead log into the file and cut it to nothing; whether nobody kept it in use."""
        give_up = time.monotonic() + WAIT_S
        # SQLite itself waits for readers, but not for a writer that moves the log just now.
        while (is_busy := self._checkpoint()) and time.monotonic() < give_up:
            time.sleep(_PAUSE_S)
        return not is_busy

    def _checkpoint(self) -> bool:
        """Whether something was in the way."""
        pooled = self._engine.raw_connection()
        try:
            with self._explained():
                try:
                    return bool(pooled.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
                except sqlite3.OperationalError as error:
                    raise sa.exc.OperationalError("PRAGMA wal_checkpoint", None, error) from error
        finally:
            pooled.close()

    def vacuum(self, tables: Sequence[str]) -> None:
        """Let PostgreSQL clear deleted rows of these tables out of its pages."""
        with self._explained(), self._engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.exec_driver_sql(f"VACUUM {', '.join(tables)}")

    def _plain_value(self, path: Path, statement: str) -> int:
        with self._explained():
            if self._marks is None:
                self._marks = _plain(path)
            try:
                return int(self._marks.execute(statement).fetchone()[0])
            except sqlite3.Error as error:
                raise sa.exc.OperationalError(statement, None, error) from error

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
            # A database server is shared by others, a file is not.
            foreign = self.path is not None and found is None and bool(sa.inspect(connection).get_table_names())
        if found == self.schema.head:
            return
        if found is None and (foreign or not create):
            raise self.schema.error(f"{self.shown} is not a {self.schema.name} store; {self.schema.advice}")
        if self.path is not None:
            self._use_wal()
        with self.writing() as connection:
            # Another process may have done it meanwhile; alembic then finds nothing to do.
            self._upgrade(connection)
        if self.path is not None:
            fsync_path(self.path.parent)

    def _version(self, connection: sa.Connection) -> str | None:
        table = f"{self.schema.name}_version"
        if not sa.inspect(connection).has_table(table):
            return None
        found = connection.execute(sa.text(f"SELECT version_num FROM {table}")).scalar_one_or_none()
        return None if found is None else str(found)

    def _use_wal(self) -> None:
        pooled = self._engine.raw_connection()
        try:
            pooled.cursor().execute("PRAGMA journal_mode=WAL")  # kept by the file; not possible in a transaction
        finally:
            pooled.close()

    def _upgrade(self, connection: sa.Connection) -> None:
        # Here, since importing alembic takes a while and only a new or an old database needs it.
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        config.set_main_option("version_locations", str(_MIGRATIONS / self.schema.name))
        config.set_main_option("path_separator", "os")
        config.attributes |= {"connection": connection, "version_table": f"{self.schema.name}_version"}
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
        what = f"the {self.schema.name} store {self.shown} cannot be used"
        try:
            yield
        except sa.exc.DBAPIError as error:
            code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
            if code == _SQLITE_BUSY:
                raise self.schema.error(f"{what}: {error.orig}; another process is writing to it, try again") from error
            raise self.schema.error(f"{what}: {error.orig}") from error
        except sa.exc.SQLAlchemyError as error:
            raise self.schema.error(f"{what}: {error}") from error


class Store:
    """What the stores share: a context manager around a database.

    Attributes:
        database: Where it is kept.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __str__(self) -> str:
        return self.database.shown

    def close(self) -> None:
        """Close the connections."""
        self.database.close()


def _engine(where: Path | str) -> sa.Engine:
    options: dict[str, Any] = {
        "json_serializer": lambda value: msgspec.json.encode(value).decode(),
        "json_deserializer": msgspec.json.decode,
        # Errors may be logged, and parameters hold pseudonyms.
        "hide_parameters": True,
    }
    if isinstance(where, Path):
        url = sa.URL.create("sqlite", database=str(where))
        engine = sa.create_engine(url, connect_args={"timeout": WAIT_S}, **options)
        sa.event.listen(engine, "connect", _configure_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
        return engine
    url = sa.make_url(where).set(drivername="postgresql+psycopg")
    # A connection that a restarted server dropped is replaced before it is used.
    return sa.create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": int(WAIT_S)}, **options)


def _configure_sqlite(connection: DBAPIConnection, _record: object) -> None:
    assert isinstance(connection, sqlite3.Connection)
    # sqlite3 would begin transactions late and leave DDL out of them; the "begin" listener begins them instead.
    connection.isolation_level = None
    connection.execute("PRAGMA synchronous=FULL")


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _plain(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=WAIT_S, check_same_thread=False)
