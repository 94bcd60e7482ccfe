"""What dies is brought back in the time that the product promises: every stub, and the server, killed under load."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from recserve_server_ext.common.workspace import Workspace
from support.callers import load, wait_answer
from support.served import Served, served
from support.wire import Wire

pytestmark = pytest.mark.triton

PROMISED_S = 10


@pytest.fixture(scope="module")
def server(tiny_home: Path) -> Iterator[Served]:
    """A server of this module's own, which it may harm."""
    with served(tiny_home) as server:
        yield server


@pytest.fixture
def body(films: list[str]) -> dict[str, object]:
    return {"history": [{"item": films[0]}], "k": 3}


def shared_regions(server: Served) -> Callable[[], list[Path]]:
    """Lists what is left of the shared memory of the tritonserver that runs now."""
    (named,) = (argument for argument in server.triton().cmdline() if "shm-region-prefix-name" in argument)
    return lambda: list(Path("/dev/shm").glob(f"{named.rpartition('=')[2]}*"))


@pytest.mark.parametrize("model", ["recommend", "encoder", "embed", "tokenize", "pool"])
def test_a_killed_stub_comes_back(server: Served, body: dict[str, object], model: str) -> None:
    before = len([entry for entry in server.events() if entry["event"] == "model_reloaded"])
    with load(server.grpc, body) as answered:
        wait_answer(answered, 0)
        killed = time.monotonic()
        server.stub(model).kill()
        reloaded = server.wait_for("model_reloaded", count=before + 1)[-1]
        assert reloaded["model"].startswith(model)
        assert time.monotonic() - killed < PROMISED_S
        assert wait_answer(answered, time.monotonic()) - killed < PROMISED_S
    wire = Wire(server.grpc)
    assert wire.ask("recommend_text", {"history": [{"text": "war"}], "k": 2})["items"]
    assert wire.ask("embed", {"texts": ["war"]})["count"] == 1


def test_a_killed_server_comes_back(server: Served, body: dict[str, object]) -> None:
    with load(server.grpc, body) as answered:
        wait_answer(answered, 0)
        killed = time.monotonic()
        stubs, regions = server.triton().children(), shared_regions(server)
        assert regions()
        server.triton().kill()
        server.wait_for("server_restarted")
        assert not regions()
        assert not [stub for stub in stubs if stub.is_running() and stub.status() != psutil.STATUS_ZOMBIE]
        assert wait_answer(answered, time.monotonic()) - killed < 2 * PROMISED_S


def test_no_folder_is_left_by_servers_that_ended(tiny_home: Path) -> None:
    for _ in range(2):
        with served(tiny_home) as server:
            own = server.grpc.rpartition(":")[2]
    assert own in [path.name for path in Workspace(tiny_home).run.iterdir()]
    with served(tiny_home):
        assert own not in [path.name for path in Workspace(tiny_home).run.iterdir()]
