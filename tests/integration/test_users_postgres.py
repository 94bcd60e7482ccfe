"""Interactions in PostgreSQL, served: two servers share them, and nothing acknowledged is lost when it restarts."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recserve_client import Client, ClientOptions, interaction
from recserve_client.errors import RecserveError, Unavailable
from recserve_server_ext.catalogue_store import CatalogueStore
from recserve_server_ext.interaction_store import InteractionStore
from recserve_server_ext.workspace import Workspace
from support.load import Recording
from support.postgres import Postgres
from support.served import Served, served

pytestmark = [pytest.mark.triton, pytest.mark.slow]
ONCE = ClientOptions(tries=1, deadline_s=30)


@pytest.fixture(scope="module")
def home(tiny_home: Path, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose interactions are in PostgreSQL."""
    copy = tmp_path_factory.mktemp("users-pg") / "home"
    shutil.copytree(
        tiny_home, copy, symlinks=True, ignore=shutil.ignore_patterns("run", "interactions.db*", "pseudonym.key")
    )
    (copy / "settings.toml").write_text(f'[users]\nstore = "{postgres.empty()}"\n')
    return copy


@pytest.fixture(scope="module")
def servers(home: Path) -> Iterator[tuple[Served, Served]]:
    config = ("--config", str(home / "settings.toml"))
    with served(home, *config) as one, served(home, *config) as other:
        yield one, other


@pytest.fixture(scope="module")
def films(home: Path) -> list[str]:
    """Ids of the catalogue."""
    with CatalogueStore(Workspace(home).store) as store:
        return [row.id for row in store.page("", 10)[1]]


def test_what_one_server_recorded_the_other_knows_at_once(servers: tuple[Served, Served], films: list[str]) -> None:
    with Client(servers[0].grpc) as one, Client(servers[1].grpc) as other:
        for number, film in enumerate(films[:5]):
            one.interactions.record([interaction("ann", "like", film)])
            answer = other.recommend_for("ann")
            assert answer.basis == "history"
            assert other.users.history("ann").read == number + 1
            assert not {found.id for found in answer.slate.items} & set(films[: number + 1])
        receipt = other.users.erase("ann")
        assert receipt.interactions == 5
        assert one.recommend_for("ann").basis == "popularity"
        assert one.users.verify_erasure("ann", receipt).is_valid


def test_a_thousand_concurrent_events_of_one_user_are_there_once(
    servers: tuple[Served, Served], postgres: Postgres
) -> None:
    def record(number: int, client: Client) -> str:
        return (
            client.interactions.record([interaction("busy", "click", "x", event_id=f"busy-{number}")]).results[0].status
        )

    with (
        Client(servers[0].grpc, ONCE) as one,
        Client(servers[1].grpc, ONCE) as other,
        ThreadPoolExecutor(50) as threads,
    ):
        # Each of the thousand is sent twice, to both servers, at about the same time.
        statuses = list(threads.map(lambda n: record(n // 2, (one, other)[n % 2]), range(2000)))
        assert sorted({*statuses}) == ["duplicate", "recorded"]
        assert statuses.count("recorded") == 1000
        held = one.users.export("busy").interactions
    assert len({row["event_id"] for row in held}) == len(held) == 1000


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
                    answers.append(own.recommend_for("reader").basis)
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
    assert answers[0] == answers[-1] == "history"
    assert not [event for served in servers for event in served.events() if event["event"] == "server_restarted"]
    with InteractionStore(postgres.url()) as store, store.all() as rows:
        held = [row["event_id"] for row in rows]
    assert len(held) == len(set(held))
    assert set(recording.acknowledged) <= set(held)
