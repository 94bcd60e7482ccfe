"""Recording over a real Triton while its disk is full, its store locked, or its process killed."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from recserve_client import Client, ClientOptions, interaction
from recserve_client.errors import Unavailable
from recserve_server_ext.interactions.store import InteractionStore
from support.load import Recording
from support.lock import locked
from support.served import Served, served
from support.tiny_home import copy_home

pytestmark = pytest.mark.triton
ONCE = ClientOptions(tries=1, deadline_s=30)
FILM = "tt0033467"


@pytest.fixture
def store(small_disk: Path) -> Path:
    """Where the interactions are: on a disk of 2 MB."""
    return small_disk / "interactions.db"


@pytest.fixture
def live(tiny_home: Path, store: Path, tmp_path: Path) -> Iterator[Served]:
    home = copy_home(tiny_home, tmp_path / "home")
    with served(home, settings=f'[users]\nstore = "{store}"\nlog.by_user = 0\n') as server:
        yield server


@pytest.fixture
def client(live: Served) -> Iterator[Client]:
    with Client(live.grpc, ONCE) as client:
        yield client


def held(store: Path) -> list[str]:
    with InteractionStore(store) as found, found.all() as rows:
        return [row["event_id"] for row in rows]


@pytest.mark.timeout(3600)  # a hundred kills take longer than a test usually may
def test_nothing_acknowledged_is_lost_by_a_full_disk_a_lock_or_kills(
    live: Served, client: Client, store: Path, small_disk: Path, kills: int
) -> None:
    acknowledged = [*until_full(client), *after_room(client, small_disk), *around_a_lock(client, store)]
    with Recording([live.grpc] * 4, deadline_s=5) as recording:
        killed(live, recording, kills)
    acknowledged += recording.acknowledged
    stored = held(store)
    assert len(stored) == len(set(stored))
    assert set(acknowledged) <= set(stored)
    assert not [event for event in live.events() if event["event"] == "server_restarted"]


def until_full(client: Client) -> list[str]:
    """Record until the disk is full; reading goes on then."""
    acknowledged = ["zoe-1"]
    client.interactions.record([interaction("zoe", "like", FILM, event_id="zoe-1")])

    def record(number: int) -> None:
        batch = [
            interaction("ann", "click", "x", event_id=f"full{number}-{n}", session_id="s" * 99, timestamp=time.time())
            for n in range(100)
        ]
        results = client.interactions.record(batch).results
        assert {result.status for result in results} == {"recorded"}
        acknowledged.extend(result.event_id for result in results)

    def fill() -> None:
        for number in range(1000):
            record(number)

    with pytest.raises(Unavailable, match="disk"):
        fill()
    assert len(acknowledged) > 500
    assert client.users.history("zoe").read == 1
    assert client.recommend_for("zoe").items
    return acknowledged


def after_room(client: Client, small_disk: Path) -> list[str]:
    """Record again when there is room; one batch in which five are bad."""
    subprocess.run(["mount", "-o", "remount,size=400m", str(small_disk)], check=True)
    batch = [interaction("bob", "click", "x", event_id=f"room-{n}") for n in range(1000)]
    wrong = (7, 300, 301, 555, 999)
    for number in wrong:
        batch[number] = interaction("bob", "click", "x", event_id=f"room-{number}", timestamp=time.time() + 1e6)
    results = client.interactions.record(batch).results
    assert [n for n, result in enumerate(results) if result.status != "recorded"] == list(wrong)
    assert {results[n].reason for n in wrong} == {"in_future"}
    rows = {row["event_id"] for row in client.users.export("bob").interactions}
    assert rows == {f"room-{n}" for n in range(1000)} - {f"room-{n}" for n in wrong}
    return sorted(rows)


def around_a_lock(client: Client, store: Path) -> list[str]:
    """Another process writes for longer than a writer waits: that is said, readers are answered meanwhile."""
    with locked(store):
        with pytest.raises(Unavailable, match="another process is writing to it, try again"):
            client.interactions.record([interaction("ann", "click", "x", event_id="locked")])
        assert client.recommend_for("zoe").items
    again = client.interactions.record([interaction("ann", "click", "x", event_id="locked")])
    assert again.results[0].status == "recorded"
    return ["locked"]


def killed(live: Served, recording: Recording, kills: int) -> None:
    """Kill the model's process while four clients record, again and again, each time at a random moment."""
    chance = random.Random(5)
    # Once in a while a tritonserver ends with a signal while it loads a model again; then the whole server is started.
    recovered = ("model_reloaded", "server_restarted")
    for _ in range(kills):
        before = len(recording.acknowledged)
        wanted = before + chance.randrange(20, 400)
        recording.wait(lambda wanted=wanted: len(recording.acknowledged) >= wanted)  # type: ignore[misc]  # a default binds it now
        count = len(live.logged(*recovered)) + 1
        live.stub("interactions").send_signal(signal.SIGKILL)
        live.wait_for(*recovered, count=count, timeout_s=60)
    after = len(recording.acknowledged)
    recording.wait(lambda: len(recording.acknowledged) > after + 100)
