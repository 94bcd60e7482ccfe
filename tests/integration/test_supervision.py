"""What dies is brought back: a stub killed under load, stops and second starts, on a real Triton."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest

import recserve_server_ext
from recserve_server_ext.triton.probes import Admin
from recserve_server_ext.triton.process import Endpoint
from recserve_server_ext.triton.repository import model_sources
from support.callers import load, wait_answer
from support.served import Served, serve_command, served
from support.wire import Wire

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def server(tiny_home: Path) -> Iterator[Served]:
    """A server of this module's own, which it may harm."""
    with served(tiny_home) as server:
        yield server


@pytest.fixture
def body(films: list[str]) -> dict[str, object]:
    return {"history": [{"item": films[0]}], "k": 3}


def test_a_killed_stub_comes_back(server: Served, body: dict[str, object]) -> None:
    """How soon is looked at in tests/nightly/kills, where nothing else runs."""
    before = len(server.logged("model_reloaded"))
    with load(server.grpc, body) as answered:
        wait_answer(answered, 0)
        server.stub("recommend").kill()
        reloaded = server.wait_for("model_reloaded", count=before + 1)[-1]
        assert reloaded["model"] == "recommend"
        wait_answer(answered, time.monotonic())
    wire = Wire(server.grpc)
    assert wire.ask("recommend_text", {"history": [{"text": "war"}], "k": 2})["items"]
    assert wire.ask("embed", {"texts": ["war"]})["count"] == 1


def test_a_second_start_on_the_port_says_so(server: Served, tiny_home: Path) -> None:
    port = server.grpc.rpartition(":")[2]
    result = subprocess.run(
        serve_command(tiny_home, "--grpc-port", port), capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 1
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    assert f":{port}" in lines[0]
    assert "--grpc-port" in lines[0]
    assert server.process.poll() is None


def test_the_repository_is_closed_to_strangers(server: Served) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        Admin(Endpoint("127.0.0.1", int(server.grpc.rpartition(":")[2]), 0), []).reload("recommend", 5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert Wire(server.grpc).ask("embed", {"texts": ["war"]})["count"] == 1


def test_metrics_are_served_and_http_is_not(server: Served) -> None:
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=10) as response:
        assert b'nv_inference_request_success{model="recommend"' in response.read()


def test_a_stop_under_load_breaks_no_answer(tiny_home: Path, body: dict[str, object]) -> None:
    """Callers get good slates until the server ends, and nothing is cut off.

    Afterwards it is UNAVAILABLE, or NOT_FOUND for the moment in which Triton has unloaded its models but still listens.
    """
    outcomes: list[str] = []
    stop = threading.Event()

    def call(address: str) -> None:
        wire = Wire(address)
        while not stop.is_set():
            try:
                outcomes.append(str(len(wire.ask("recommend", body)["items"])))
            except grpc.RpcError as error:
                outcomes.append(error.code().name)
                return

    with served(tiny_home) as server:
        threads = [threading.Thread(target=call, args=(server.grpc,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        while len(outcomes) < 50:
            stop.wait(0.01)
    for thread in threads:
        thread.join(10)
    stop.set()
    assert outcomes.count("3") >= 50
    assert set(outcomes) <= {"3", "UNAVAILABLE", "NOT_FOUND"}


def test_a_killed_supervisor_takes_its_server_along(tiny_home: Path) -> None:
    with served(tiny_home, code=-signal.SIGKILL) as server:
        family = [server.triton(), *server.triton().children()]
        server.process.kill()
        _, left = psutil.wait_procs(family, timeout=30)
        assert not left


def test_every_model_imports_the_rooms_that_the_launcher_imports(
    tiny_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another copy of them is installed in the environment of its Python."""
    rooms, seen = tmp_path / "server_ext", tmp_path / "seen"
    shutil.copytree(Path(recserve_server_ext.__file__).parent, rooms / "recserve_server_ext")
    (tmp_path / "model_repository").symlink_to(model_sources())
    seen.mkdir()
    with (rooms / "recserve_server_ext" / "__init__.py").open("a") as room:
        room.write(f"import os, pathlib\npathlib.Path({str(seen)!r}, str(os.getpid())).touch()\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(rooms), *filter(None, sys.path)]))
    with served(tiny_home) as server:
        stubs = [process for process in server.triton().children() if process.status() != psutil.STATUS_ZOMBIE]
        pids = {path.name for path in seen.iterdir()}
        assert len(stubs) >= 6
        assert str(server.process.pid) in pids
        assert {str(stub.pid) for stub in stubs} <= pids


@pytest.mark.parametrize("missing", ["encoder", "snapshot"])
def test_nothing_to_serve_is_one_line(tmp_path: Path, tiny_home: Path, missing: str) -> None:
    if missing == "snapshot":
        (tmp_path / "encoder").symlink_to(tiny_home / "encoder")
    result = subprocess.run(serve_command(tmp_path), capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    (line,) = result.stderr.strip().splitlines()
    assert "recserve export encoder" in line if missing == "encoder" else "recserve index build" in line
