"""Copies of a store as of one moment, while others write: SQLite by its backup API, PostgreSQL by pg_dump."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, Literal, NamedTuple

import sqlalchemy as sa

from recserve_server_ext.common.files import fsync_path
from recserve_server_ext.storage.database import Database, Schema

Kind = Literal["sqlite", "postgresql"]
_DEBIAN: Final = Path("/usr/lib/postgresql")
_SHOWN: Final = 300


class Frozen(NamedTuple):
    """A store as it was at one moment.

    Attributes:
        state: The row of its state.
        write: Writes a copy of it to a new file, fsynced, while the context lasts.
    """

    kind: Kind
    state: sa.Row[tuple[object, ...]]
    write: Callable[[Path], None]


@contextmanager
def frozen(where: Path | str, schema: Schema) -> Iterator[Frozen]:
    """A store as it is now, whatever is committed while this lasts.

    A SQLite database is held open for reading: its log grows meanwhile, and an erasure asks to be repeated.

    Raises:
        StoreError: (the schema's) The store cannot be read, or another version made it.
    """
    database = Database(where, schema)
    try:
        with database.reading() as connection:
            state = connection.execute(sa.select(schema.state)).one()
            if database.is_sqlite:
                source = connection.connection.driver_connection
                assert isinstance(source, sqlite3.Connection)
                yield Frozen("sqlite", state, lambda target: _copy(source, target, schema))
            else:
                name = connection.execute(sa.text("SELECT pg_export_snapshot()")).scalar_one()
                yield Frozen("postgresql", state, lambda target: _dump(str(where), schema, name, target))
    finally:
        database.close()


def load_dump(path: Path, url: str, schema: Schema) -> None:
    """Make the tables of a PostgreSQL dump in a database that has none of them, all or nothing.

    Raises:
        StoreError: (the schema's) There are such tables, or the database cannot be used.
    """
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"), hide_parameters=True)
    shown = sa.make_url(url).render_as_string()
    try:
        there = sorted(set(sa.inspect(engine).get_table_names()) & set(_tables(schema)))
    except sa.exc.SQLAlchemyError as error:
        why = " ".join(str(getattr(error, "orig", error)).split())
        raise schema.error(f"the database {shown} cannot be used: {why}") from error
    finally:
        engine.dispose()
    if there:
        raise schema.error(f"the database {shown} has a table {there[0]} already; name an empty one")
    options = ["--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges"]
    _run("pg_restore", [*options, str(path)], url, schema)


def _copy(source: sqlite3.Connection, target: Path, schema: Schema) -> None:
    try:
        with closing(sqlite3.connect(target)) as copy:
            # All pages in one step, in the transaction that is open: nothing that is written meanwhile is in it.
            source.backup(copy)
            if (found := copy.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise schema.error(f"the {schema.name} store is damaged: {found}; {schema.advice}")
            copy.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        raise schema.error(f"the {schema.name} store cannot be copied to {target}: {error}") from error
    fsync_path(target)


def _dump(url: str, schema: Schema, snapshot: str, target: Path) -> None:
    options = ["--format=custom", "--no-owner", "--no-privileges", "--strict-names", f"--snapshot={snapshot}"]
    tables = [f"--table={name}" for name in _tables(schema)]
    _run("pg_dump", [*options, *tables, f"--file={target}"], url, schema)
    fsync_path(target)


def _tables(schema: Schema) -> list[str]:
    return [*schema.tables.tables, f"{schema.name}_version"]


def _run(program: str, options: Sequence[str], url: str, schema: Schema) -> None:
    """Run a program of PostgreSQL on a database, without its password on the command line."""
    parsed = sa.make_url(url).set(drivername="postgresql")
    password = {"PGPASSWORD": str(parsed.password)} if parsed.password is not None else {}
    plain = sa.URL.create(
        parsed.drivername,
        username=parsed.username,
        host=parsed.host,
        port=parsed.port,
        database=parsed.database,
        query=parsed.query,
    ).render_as_string()
    command = [_program(program, schema), *options, f"--dbname={plain}"]
    ended = subprocess.run(
        command, env={**os.environ, **password}, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    if ended.returncode:
        why = re.sub(r"\s+", " ", ended.stderr).strip()[:_SHOWN]
        raise schema.error(f"{program} of the {schema.name} store failed: {why}")


def _program(name: str, schema: Schema) -> str:
    """The newest program of Debian's packages, or else the one on PATH: an older one refuses a newer server."""
    found = sorted(_DEBIAN.glob(f"*/bin/{name}"), key=lambda path: float(path.parts[4]))
    program = str(found[-1]) if found else shutil.which(name)
    if program is None:
        raise schema.error(f"{name} is not installed (Debian: apt-get install postgresql-client)")
    return program
