"""A full disk under the folder that a server runs from: it serves on, and one that cannot start says why."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from recserve_client import Client, ClientOptions, text
from recserve_server_ext.common.workspace import Workspace
from support.served import serve_command, served
from support.tiny_home import copy_home

pytestmark = pytest.mark.triton
PATIENT = ClientOptions(deadline_s=60)


def fill(disk: Path) -> None:
    """Write until nothing more fits."""
    with (disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))
    assert not os.statvfs(disk).f_bavail


@pytest.fixture
def home(tiny_home: Path, small_disk: Path, tmp_path: Path) -> Path:
    """A home whose run folder is on a small disk."""
    home = copy_home(tiny_home, tmp_path / "home")
    Workspace(home).run.symlink_to(small_disk)
    return home


def test_a_server_whose_disk_fills_up_serves_on_and_stops_well(home: Path, small_disk: Path) -> None:
    # The backend is copied there.
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    with served(home) as server:
        before = {process.pid for process in server.triton().children()}
        fill(small_disk)
        with Client(server.grpc, PATIENT) as client:
            for number in range(20):
                assert client.recommend([text(f"a heist {number}")]).items
        stub = server.stub("embed")
        stub.kill()
        server.wait_for("model_reloaded", timeout_s=120)
        with Client(server.grpc, PATIENT) as client:
            assert client.embed(["a heist"]).shape[0] == 1
        assert before - {stub.pid} <= {process.pid for process in server.triton().children()}
        assert server.logged("server_restarted", "server_exited") == []


def test_a_server_that_finds_no_room_says_so_in_a_line(home: Path, small_disk: Path) -> None:
    fill(small_disk)
    ran = subprocess.run(serve_command(home), capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 1
    assert "No space left on device" in ran.stderr
    assert "Traceback" not in ran.stderr
