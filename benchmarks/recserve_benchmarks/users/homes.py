"""Homes and interaction stores of `recserve bench users`, aside from the user's own, removed when it ends."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.users.events import Past
from recserve_benchmarks.users.fill import blocks, fill_postgres, fill_sqlite
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.interactions.key_file import read_pseudonyms
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.interactions.tables import SCHEMA, metadata

#: Makes anew what to fill a store with.
Pasts = Callable[[], Iterable[Past]]


class Filled(NamedTuple):
    """A store that was filled.

    Attributes:
        fill_s: How long it took, in seconds.
        size_bytes: Of the file, or of the database.
    """

    fill_s: float
    size_bytes: int


class Homes(NamedTuple):
    """Where things lie.

    Attributes:
        sqlite: Home with a SQLite store.
        raw: A copy of that store, to be written raw.
        postgres: Home of the server over PostgreSQL; none = not asked for.
        config: Its settings.
        filled: What filling each store came to, by its name.
    """

    sqlite: Workspace
    raw: Path
    postgres: Workspace | None
    config: Path
    filled: dict[str, Filled]


@contextmanager
def homes(served: Path, postgres: str, pasts: Pasts, done: Callable[[int], None]) -> Iterator[Homes]:
    """Make and fill them.

    Args:
        served: Home with the items; the new ones lie beside it, on the same disk.
        postgres: URL of a database without an interaction store; empty = none.
        pasts: What is in the stores beforehand.
        done: Called with the number of interactions that came in, of both stores.

    Raises:
        BenchmarkError: The database has an interaction store.
    """
    with tempfile.TemporaryDirectory(prefix="bench-users-", dir=served.parent) as aside:
        folder = Path(aside)
        home = _home(folder / "sqlite", served)
        filled = {"sqlite": _fill_sqlite(home, pasts, done)}
        raw = folder / "raw.db"
        shutil.copy(home.interactions, raw)
        config = folder / "postgres.toml"
        if not postgres:
            yield Homes(home, raw, None, config, filled)
            return
        config.write_text(f"[users]\nstore = '{postgres}'\n")
        other = _home(folder / "postgres", served)
        with _filled_postgres(postgres, other, pasts, done) as filled["postgres"]:
            yield Homes(home, raw, other, config, filled)


def _home(folder: Path, served: Path) -> Workspace:
    home = Workspace(folder)
    home.home.mkdir()
    there = Workspace(served)
    for link, target in ((home.encoder, there.encoder), (home.snapshots, there.snapshots)):
        link.symlink_to(target.resolve(), target_is_directory=True)
    return home


def _fill_sqlite(home: Workspace, pasts: Pasts, done: Callable[[int], None]) -> Filled:
    InteractionStore(home.interactions, create=True).close()
    start = time.perf_counter()
    fill_sqlite(home.interactions, blocks(pasts(), read_pseudonyms(home.pseudonym_key)), done)
    return Filled(time.perf_counter() - start, home.interactions.stat().st_size)


@contextmanager
def _filled_postgres(url: str, home: Workspace, pasts: Pasts, done: Callable[[int], None]) -> Iterator[Filled]:
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
    try:
        if sa.inspect(engine).has_table(metadata.sorted_tables[0].name):
            raise BenchmarkError("the database of --postgres has an interaction store; give an empty database")
        try:
            InteractionStore(url, create=True).close()
            start = time.perf_counter()
            fill_postgres(url, blocks(pasts(), read_pseudonyms(home.pseudonym_key)), done)
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("VACUUM ANALYZE")
                fill_s = time.perf_counter() - start
                size = connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one()
            yield Filled(fill_s, int(size))
        finally:
            metadata.drop_all(engine)
            with engine.begin() as connection:
                connection.exec_driver_sql(f"DROP TABLE IF EXISTS {SCHEMA.name}_version")
    except sa.exc.SQLAlchemyError as error:
        raise BenchmarkError(f"the database of --postgres cannot be used: {error}") from error
    finally:
        engine.dispose()
