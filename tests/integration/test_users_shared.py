"""Two servers over one interaction store: what one recorded or erased, the other knows with its next answer."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recserve_client import Client, ClientOptions, interaction
from support.postgres import Postgres
from support.served import Served
from support.two_servers import both_served, film_ids, home_of_two

pytestmark = [pytest.mark.triton, pytest.mark.slow]
ONCE = ClientOptions(tries=1, deadline_s=30)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def home(request: pytest.FixtureRequest, tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that both serve, with its interactions in a file, and once more in PostgreSQL."""
    where = ""
    if request.param == "postgres":
        postgres: Postgres = request.getfixturevalue("postgres")
        where = postgres.empty()
    return home_of_two(tiny_home, tmp_path_factory.mktemp("users-shared"), where)


@pytest.fixture(scope="module")
def servers(home: Path) -> Iterator[tuple[Served, Served]]:
    """Both of them."""
    with both_served(home) as servers:
        yield servers


@pytest.fixture(scope="module")
def films(home: Path) -> list[str]:
    """Ids of the catalogue."""
    return film_ids(home)


def test_what_one_server_recorded_the_other_knows_at_once(servers: tuple[Served, Served], films: list[str]) -> None:
    with Client(servers[0].grpc) as one, Client(servers[1].grpc) as other:
        for number, film in enumerate(films[:5]):
            one.interactions.record([interaction("ann", "like", film)])
            answer = other.recommend_for("ann")
            assert answer.strategy == "text"
            assert other.users.history("ann").read == number + 1
            assert not {found.id for found in answer.items} & set(films[: number + 1])
        receipt = other.users.erase("ann")
        assert receipt.interactions == 5
        assert one.recommend_for("ann").strategy == "popular"
        assert one.users.verify_erasure("ann", receipt).is_valid


def test_a_thousand_concurrent_events_of_one_user_are_there_once(servers: tuple[Served, Served]) -> None:
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
