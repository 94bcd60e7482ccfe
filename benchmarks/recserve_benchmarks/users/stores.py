"""Filled interaction stores and homes to serve them from, aside from the user's own, for the time of a run."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.harness.run import Run
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.interactions.interaction import Interaction
from recserve_server_ext.interactions.key_file import read_pseudonyms
from recserve_server_ext.interactions.pseudonyms import Pseudonyms
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.interactions.tables import SCHEMA, metadata

#: What is in a store beforehand, made anew for each store.
Pasts = Callable[[Pseudonyms], Iterable[Interaction]]


class Stores(NamedTuple):
    """Where things lie.

    Attributes:
        options: Home and more options of `recserve serve`, by name of the store.
        sqlite: File of the SQLite store.
        copy: A copy of that file.
        fill_s: Seconds that filling each store took, by its name.
    """

    options: dict[str, tuple[Workspace, tuple[str, ...]]]
    sqlite: Path
    copy: Path
    fill_s: dict[str, float]


@contextmanager
def filled_stores(run: Run, served: Workspace, postgres: str, pasts: Pasts, total: int) -> Iterator[Stores]:
    """Make stores and fill them.

    Args:
        run: Of the benchmark.
        served: Home with the items; the new ones lie beside it, on the same disk.
        postgres: URL of a database without an interaction store; empty for none.
        pasts: What is in the stores beforehand.
        total: Number of interactions in it.

    Raises:
        BenchmarkError: The database has an interaction store, or cannot be used.
    """
    with tempfile.TemporaryDirectory(prefix="bench-users-", dir=served.home.parent) as aside:
        folder = Path(aside)
        home = _home(folder / "sqlite", served)
        fill_s = {"sqlite": _fill(run, home, home.interactions, pasts, total)}
        copy = folder / "raw.db"
        shutil.copy(home.interactions, copy)
        options: dict[str, tuple[Workspace, tuple[str, ...]]] = {"sqlite": (home, ())}
        stores = Stores(options, home.interactions, copy, fill_s)
        if not postgres:
            yield stores
            return
        with _emptied(postgres) as engine:
            other, config = _home(folder / "postgres", served), folder / "postgres.toml"
            config.write_text(f"[users]\nstore = '{postgres}'\n")
            fill_s["postgres"] = _fill(run, other, postgres, pasts, total)
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("VACUUM ANALYZE")
            options["postgres"] = (other, ("--config", str(config)))
            yield stores


def _home(folder: Path, served: Workspace) -> Workspace:
    home = Workspace(folder)
    home.home.mkdir()
    for link, target in ((home.encoder, served.encoder), (home.snapshots, served.snapshots)):
        link.symlink_to(target.resolve(), target_is_directory=True)
    return home


def _fill(run: Run, home: Workspace, where: Path | str, pasts: Pasts, total: int) -> float:
    """Record the pasts in a new store as serving would; the seconds that took."""
    start = time.perf_counter()
    with InteractionStore(where, create=True) as store, run.stage("fill the store", total) as advance:
        made = iter(pasts(read_pseudonyms(home.pseudonym_key)))
        while batch := list(islice(made, store.limits.batch)):
            store.record(batch)
            advance(len(batch))
    return time.perf_counter() - start


@contextmanager
def _emptied(url: str) -> Iterator[sa.Engine]:
    """A PostgreSQL database without an interaction store, before and afterwards."""
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
    try:
        if sa.inspect(engine).has_table(metadata.sorted_tables[0].name):
            raise BenchmarkError("the database of --postgres has an interaction store; give an empty database")
        try:
            yield engine
        finally:
            metadata.drop_all(engine)
            with engine.begin() as connection:
                connection.exec_driver_sql(f"DROP TABLE IF EXISTS {SCHEMA.name}_version")
    except sa.exc.SQLAlchemyError as error:
        raise BenchmarkError(f"the database of --postgres cannot be used: {error}") from error
    finally:
        engine.dispose()
