"""A catalogue in PostgreSQL, served: two servers share it, and recommendations go on while the database is away."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recserve_client import Client, ClientOptions, NewItem, text
from recserve_client.errors import RecserveError, Unavailable
from recserve_export.index.build import build
from recserve_export.index.engine_choice import Settings
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.common.workspace import Workspace
from support.postgres import Postgres
from support.served import Served, served

pytestmark = [pytest.mark.triton, pytest.mark.slow]


@pytest.fixture(scope="module")
def home(tiny_home: Path, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home without a store of its own; its catalogue is in PostgreSQL."""
    home = tmp_path_factory.mktemp("pg") / "home"
    home.mkdir()
    shutil.copytree(tiny_home / "encoder", home / "encoder", symlinks=True)
    url = postgres.empty()
    with CatalogueStore(tiny_home / "catalogue.db") as films, CatalogueStore(url, create=True) as store:
        store.replace_all(films.items(), field_weights=films.head().field_weights)
    build(Workspace(home), home / "encoder" / "fp32", Settings(engine="hnsw", m=(16,), ef=(64,), users=20), store=url)
    (home / "settings.toml").write_text(f'store = "{url}"\n')
    return home


@pytest.fixture(scope="module")
def servers(home: Path) -> Iterator[tuple[Served, Served]]:
    config = ("--config", str(home / "settings.toml"))
    with served(home, *config) as one, served(home, *config) as other:
        yield one, other


def best(client: Client, query: str, min_revision: int = 0) -> str:
    return client.recommend([text(query)], k=1, min_revision=min_revision).items[0].id


def film(item_id: str, title: str) -> NewItem:
    return NewItem(item_id, {"title": title})


def test_what_one_server_writes_the_other_serves(servers: tuple[Served, Served]) -> None:
    with Client(servers[0].grpc) as one, Client(servers[1].grpc) as other:
        revision = one.items.upsert([film("pg1", "written to the first server")]).revision
        assert best(other, "written to the first server", min_revision=revision) == "pg1"
        revision = other.items.delete(["pg1"]).revision
        assert best(one, "written to the first server", min_revision=revision) != "pg1"


def test_recommendations_go_on_while_the_database_is_away(
    servers: tuple[Served, Served], home: Path, postgres: Postgres
) -> None:
    acknowledged: dict[str, str] = {}
    refused: list[RecserveError] = []
    done = threading.Event()

    def write() -> None:
        number = 0
        with Client(servers[0].grpc, ClientOptions(tries=1, deadline_s=30)) as own:
            while not done.is_set():
                try:
                    own.items.upsert([film(f"away{number}", f"film number {number}")])
                    acknowledged[f"away{number}"] = f"film number {number}"
                except RecserveError as error:
                    refused.append(error)
                number += 1
                done.wait(0.02)

    def ask() -> int:
        asked = 0
        with Client(servers[0].grpc, ClientOptions(tries=1, deadline_s=30)) as own:
            while not done.is_set():
                assert own.recommend([text("a film about the sea")], k=3).items
                asked += 1
        return asked

    with ThreadPoolExecutor(2) as threads:
        writing, asking = threads.submit(write), threads.submit(ask)
        try:
            wait_until(lambda: len(acknowledged) > 5)
            postgres.stop("immediate")
            wait_until(lambda: len(refused) > 3)
            postgres.start()
            before = len(acknowledged)
            wait_until(lambda: len(acknowledged) > before + 5)
        finally:
            done.set()
        writing.result(60)
        assert asking.result(60) > 0
    assert all(isinstance(error, Unavailable) for error in refused), refused
    assert "catalogue store postgresql://" in refused[0].message
    assert not [event for event in servers[0].events() if event["event"] == "server_restarted"]
    with CatalogueStore(postgres.url()) as store:
        stored = {item.id: item.texts["title"] for item in store.items() if item.id.startswith("away")}
    # A change whose answer the crash swallowed may be there.
    assert acknowledged.items() <= stored.items()
    with Client(servers[1].grpc, ClientOptions(tries=10, deadline_s=30)) as other:
        last = list(acknowledged)[-1]
        wait_until(lambda: best(other, acknowledged[last]) == last)


def wait_until(is_so: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)
