"""What systemd is told, over a socket as systemd makes it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from recserve_server_ext.supervisor.service_manager import ServiceManager


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as found:
        found.settimeout(10)
        yield found


def test_states_are_sent_and_children_do_not_know_where(tmp_path: Path, listener: socket.socket) -> None:
    listener.bind(str(tmp_path / "notify"))
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1", "PATH": "/bin"}
    manager = ServiceManager(environment)
    assert environment == {"PATH": "/bin"}
    manager.tell(READY=1, STATUS="serving")
    assert listener.recv(100) == b"READY=1\nSTATUS=serving"


def test_a_name_without_a_file(listener: socket.socket) -> None:
    name = f"recserve-test-{os.getpid()}"
    listener.bind(f"\0{name}")
    ServiceManager({"NOTIFY_SOCKET": f"@{name}"}).tell(WATCHDOG=1)
    assert listener.recv(100) == b"WATCHDOG=1"


def test_a_manager_that_is_away_is_no_fault(tmp_path: Path) -> None:
    ServiceManager({}).tell(READY=1)
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "none")}).tell(READY=1)
