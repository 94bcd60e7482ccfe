"""Interactions in PostgreSQL, served by two servers: nothing acknowledged is lost when it restarts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recserve_client import Client, ClientOptions, interaction
from recserve_client.errors import RecserveError, Unavailable
from recserve_server_ext.interactions.store import InteractionStore
from support.load import Recording
from support.postgres import Postgres
from support.served import Served
from support.two_servers import both_served, film_ids, home_of_two

pytestmark = [pytest.mark.triton, pytest.mark.slow]
ONCE = ClientOptions(tries=1, deadline_s=30)


@pytest.fixture(scope="module")
def home(tiny_home: Path, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose interactions are in PostgreSQL."""
    return home_of_two(tiny_home, tmp_path_factory.mktemp("users-pg"), postgres.empty())


@pytest.fixture(scope="module")
def servers(home: Path) -> Iterator[tuple[Served, Served]]:
    with both_served(home) as servers:
        yield servers


@pytest.fixture(scope="module")
def films(home: Path) -> list[str]:
    """Ids of the catalogue."""
    return film_ids(home)


def test_a_database_that_crashes_under_load_loses_nothing_acknowledged(
    servers: tuple[Served, Served], postgres: Postgres, films: list[str]
) -> None:
    with Client(servers[0].grpc, ONCE) as client:
        client.interactions.record([interaction("reader", "like", films[0])])
    answers: list[str] = []
    unanswered: list[RecserveError] = []
    over = threading.Event()

    def ask() -> None:
        with Client(servers[1].grpc, ONCE) as own:
            while not over.is_set():
                try:
                    answers.append(own.recommend_for("reader").strategy)
                except RecserveError as error:
                    unanswered.append(error)
                over.wait(0.01)

    recording = Recording([served.grpc for served in servers])
    with ThreadPoolExecutor(1) as threads, recording:
        asking = threads.submit(ask)
        try:
            recording.wait(lambda: len(recording.acknowledged) > 50)
            postgres.stop("immediate")
            try:
                recording.wait(lambda: len(recording.refused) > 5)
            finally:
                postgres.start()
            after = len(recording.acknowledged)
            recording.wait(lambda: len(recording.acknowledged) > after + 50)
        finally:
            over.set()
        asking.result(60)
    assert {type(error) for error in [*recording.refused, *unanswered]} <= {Unavailable}
    assert "the interactions store postgresql://" in recording.refused[0].message
    assert answers[0] == answers[-1] == "text"
    assert not [event for served in servers for event in served.events() if event["event"] == "server_restarted"]
    with InteractionStore(postgres.url()) as store, store.all() as rows:
        held = [row["event_id"] for row in rows]
    assert len(held) == len(set(held))
    assert set(recording.acknowledged) <= set(held)
