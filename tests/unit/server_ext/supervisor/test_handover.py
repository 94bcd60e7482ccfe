"""The handover of ports: a process stops listening and keeps its connections, and ends when it has none."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from recserve_server_ext.supervisor.handover import Retiring, close_listener
from recserve_server_ext.triton.process import Endpoint

#: Echoes what comes over its connections, each in a thread of its own.
_ECHO = """
import socketserver
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
with Server(("127.0.0.1", 0), Echo) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()
"""

#: Waits for connections as libevent does, and says when asked how often its listener woke it.
_LOOP = """
import selectors, socket, sys
listener = socket.create_server(("127.0.0.1", 0))
listener.setblocking(False)
loop, woken = selectors.DefaultSelector(), 0
loop.register(listener, selectors.EVENT_READ)
loop.register(sys.stdin, selectors.EVENT_READ)
print(listener.getsockname()[1], flush=True)
while True:
    ready = [key.fileobj for key, _ in loop.select()]
    woken += listener in ready
    if sys.stdin in ready:
        sys.stdin.readline()
        print(woken, flush=True)
"""


@dataclass
class Echo:
    """A process that listens."""

    pid: int
    port: int


@pytest.fixture
def echo() -> Iterator[Echo]:
    with subprocess.Popen([sys.executable, "-c", _ECHO], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Echo(process.pid, int(process.stdout.readline()))
        process.kill()


def answered(connection: socket.socket) -> bytes:
    connection.sendall(b"line\n")
    return connection.recv(100)


def test_connections_stay_and_the_port_is_free(echo: Echo) -> None:
    with socket.create_connection(("127.0.0.1", echo.port), 5) as connection:
        assert answered(connection) == b"line\n"
        close_listener(echo.pid, echo.port)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", echo.port), 5)
        assert answered(connection) == b"line\n"
        with socket.socket() as next_one:
            next_one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            next_one.bind(("127.0.0.1", echo.port))
            next_one.listen()
        with pytest.raises(OSError, match="does not listen on port"):
            close_listener(echo.pid, echo.port)


def test_a_connection_that_was_not_accepted_yet_is_not_reset(echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    os.kill(echo.pid, signal.SIGSTOP)
    # It goes on once it is waited for.
    monkeypatch.setattr(
        "recserve_server_ext.supervisor.handover.time.sleep", lambda _: os.kill(echo.pid, signal.SIGCONT)
    )
    with socket.create_connection(("127.0.0.1", echo.port), 5) as connection:
        close_listener(echo.pid, echo.port)
        assert answered(connection) == b"line\n"


def test_the_loop_of_a_closed_listener_rests() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _LOOP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        questions, answers = process.stdin, process.stdout
        assert questions is not None
        assert answers is not None

        def asked() -> int:
            """How often the listener had something, up to now."""
            questions.write("?\n")
            questions.flush()
            return int(answers.readline())

        port = int(answers.readline())
        (peer,) = close_listener(process.pid, port, quiet=True)
        before = asked()
        assert [asked() for _ in range(20)] == [before] * 20
        with socket.socket() as next_one:
            next_one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            next_one.bind(("127.0.0.1", port))
            next_one.listen()
        peer.close()
        assert asked() < asked()  # it would have gone on
        process.kill()


def test_a_process_without_that_port_or_none_at_all(echo: Echo) -> None:
    with pytest.raises(OSError, match="does not listen on port 1"):
        close_listener(echo.pid, 1)
    with pytest.raises(OSError, match="does not listen"):
        close_listener(2**22 + 1, echo.port)


def retiring(echo: Echo, code: int | None = None) -> Retiring:
    process: Any = SimpleNamespace(pid=echo.pid, exit_code=lambda: code)
    return Retiring(process, Endpoint("127.0.0.1", echo.port, 1))


def test_it_is_idle_when_nobody_is_connected(echo: Echo) -> None:
    assert retiring(echo).is_idle
    with socket.create_connection(("127.0.0.1", echo.port), 5) as connection:
        answered(connection)
        assert not retiring(echo).is_idle
        assert retiring(echo, code=0).is_idle


def test_it_is_waited_for_until_a_deadline(echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_connection(("127.0.0.1", echo.port), 5) as connection:
        answered(connection)
        one = retiring(echo)
        now = one._until
        monkeypatch.setattr("recserve_server_ext.supervisor.handover.time.monotonic", lambda: now - 1)
        assert not one.is_idle
        monkeypatch.setattr("recserve_server_ext.supervisor.handover.time.monotonic", lambda: now + 1)
        assert one.is_idle
