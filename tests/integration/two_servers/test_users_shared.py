"""Two servers over one interaction store: what one recorded or erased, the other knows with its next answer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from recserve_client import Client, ClientOptions, interaction
from support.two_servers import Pair

pytestmark = pytest.mark.triton
ONCE = ClientOptions(tries=1, deadline_s=30)


@pytest.fixture(params=["sqlite", "postgres"])
def pair(request: pytest.FixtureRequest) -> Pair:
    found: Pair = request.getfixturevalue(f"on_{request.param}")
    return found


def test_what_one_server_recorded_the_other_knows_at_once(pair: Pair, films: list[str]) -> None:
    with Client(pair.one.grpc) as one, Client(pair.other.grpc) as other:
        for number, film in enumerate(films[:5]):
            one.interactions.record([interaction("of both", "like", film)])
            answer = other.recommend_for("of both")
            assert answer.strategy == "text"
            assert other.users.history("of both").read == number + 1
            assert not {found.id for found in answer.items} & set(films[: number + 1])
        receipt = other.users.erase("of both")
        assert receipt.interactions == 5
        assert one.recommend_for("of both").strategy == "popular"
        assert one.users.verify_erasure("of both", receipt).is_valid


def test_a_thousand_concurrent_events_of_one_user_are_there_once(pair: Pair) -> None:
    def record(number: int, client: Client) -> str:
        return (
            client.interactions.record([interaction("busy", "click", "x", event_id=f"busy-{number}")]).results[0].status
        )

    with (
        Client(pair.one.grpc, ONCE) as one,
        Client(pair.other.grpc, ONCE) as other,
        ThreadPoolExecutor(50) as threads,
    ):
        # Each of the thousand is sent twice, to both servers, at about the same time.
        statuses = list(threads.map(lambda n: record(n // 2, (one, other)[n % 2]), range(2000)))
        assert sorted({*statuses}) == ["duplicate", "recorded"]
        assert statuses.count("recorded") == 1000
        held = one.users.export("busy").interactions
    assert len({row["event_id"] for row in held}) == len(held) == 1000
