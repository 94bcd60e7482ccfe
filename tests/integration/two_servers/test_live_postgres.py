"""A catalogue in PostgreSQL, served: two servers share it, and recommendations go on while the database is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from recserve_client import Client, ClientOptions, NewItem, text
from recserve_client.errors import RecserveError, Unavailable
from recserve_server_ext.catalogue.store import CatalogueStore
from support.postgres import Postgres
from support.two_servers import Pair

pytestmark = pytest.mark.triton


def best(client: Client, query: str, min_revision: int = 0) -> str:
    return client.recommend([text(query)], k=1, min_revision=min_revision).items[0].id


def film(item_id: str, title: str) -> NewItem:
    return NewItem(item_id, {"title": title})


def test_what_one_server_writes_the_other_serves(on_postgres: Pair) -> None:
    with Client(on_postgres.one.grpc) as one, Client(on_postgres.other.grpc) as other:
        revision = one.items.upsert([film("pg1", "written to the first server")]).revision
        assert best(other, "written to the first server", min_revision=revision) == "pg1"
        revision = other.items.delete(["pg1"]).revision
        assert best(one, "written to the first server", min_revision=revision) != "pg1"


def test_recommendations_go_on_while_the_database_is_away(on_postgres: Pair, postgres: Postgres) -> None:
    acknowledged: dict[str, str] = {}
    refused: list[RecserveError] = []
    done = threading.Event()

    def write() -> None:
        number = 0
        with Client(on_postgres.one.grpc, ClientOptions(tries=1, deadline_s=30)) as own:
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
        with Client(on_postgres.one.grpc, ClientOptions(tries=1, deadline_s=30)) as own:
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
    assert not [event for event in on_postgres.one.events() if event["event"] == "server_restarted"]
    with CatalogueStore(on_postgres.catalogue) as store:
        stored = {item.id: item.texts["title"] for item in store.items() if item.id.startswith("away")}
    # A change whose answer the crash swallowed may be there.
    assert acknowledged.items() <= stored.items()
    with Client(on_postgres.other.grpc, ClientOptions(tries=10, deadline_s=30)) as other:
        last = list(acknowledged)[-1]
        wait_until(lambda: best(other, acknowledged[last]) == last)


def wait_until(is_so: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)
