"""Two servers over the same stores: once over the home of `live`, once with both stores in PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from recserve_export.index.build import build
from recserve_export.index.engine_choice import Settings
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.common.workspace import Workspace
from support.postgres import Postgres
from support.served import Served, served
from support.two_servers import Pair, PostgresHome


@pytest.fixture(scope="package")
def postgres_home(tiny_home: Path, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> PostgresHome:
    """A home without any store of its own."""
    home = tmp_path_factory.mktemp("postgres") / "home"
    shutil.copytree(tiny_home / "encoder", home / "encoder", symlinks=True)
    catalogue, interactions = postgres.another("catalogue"), postgres.another("interactions")
    with CatalogueStore(tiny_home / "catalogue.db") as films, CatalogueStore(catalogue, create=True) as store:
        store.replace_all(films.items(), field_weights=films.head().field_weights)
    quick = Settings(engine="hnsw", m=(16,), ef=(64,), users=20)
    build(Workspace(home), home / "encoder" / "fp32", quick, store=catalogue)
    return PostgresHome(home, catalogue, interactions)


@pytest.fixture(scope="package")
def on_postgres(postgres_home: PostgresHome) -> Iterator[Pair]:
    """Both over that home."""
    home, settings = postgres_home.home, postgres_home.settings
    with ExitStack() as stack:
        with ThreadPoolExecutor(2) as starting:
            one, other = starting.map(lambda _: stack.enter_context(served(home, settings=settings)), range(2))
        yield Pair(one, other, postgres_home.catalogue, postgres_home.interactions)


@pytest.fixture(scope="package")
def on_sqlite(live: Served) -> Iterator[Pair]:
    """The server of other tests, and one more over its home."""
    place = Workspace(live.home)
    with served(live.home) as other:
        yield Pair(live, other, place.store, place.interactions)
