"""Hostile callers of a real server: behind its gateway, and on a machine that has little of everything."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from recserve_client import ClientOptions, text
from support import http2
from support.served import serve_command
from support.site import Site
from support.tiny_home import copy_home

pytestmark = pytest.mark.triton
PATIENT = ClientOptions(deadline_s=30)
STREAMS = range(1, 200, 2)


@contextmanager
def unharmed(site: Site) -> Iterator[None]:
    """Others are served meanwhile and afterwards, by the same processes."""
    before = {process.pid for process in site.server.triton().children()} | {site.server.triton().pid}
    yield
    with site.client("recommend") as client:
        for _ in range(3):
            assert client.recommend([text("a heist")]).items
    after = {process.pid for process in site.server.triton().children()} | {site.server.triton().pid}
    assert after == before
    assert site.server.logged("model_unhealthy", "server_exited") == []


class Unfinished(NamedTuple):
    """Connections that wait until the gateway ends them.

    Attributes:
        callers: Those that do not finish their first words.
        streams: One with streams of which a message was announced, and does not come.
    """

    callers: list[socket.socket]
    streams: socket.socket


@pytest.fixture(scope="module", autouse=True)
def unfinished(site: Site) -> Iterator[Unfinished]:
    """Begun before all tests of this module, as they are ended after 10 to 40 s, and others are served meanwhile."""
    beginnings = (
        b"",
        http2.PREFACE[:7],
        http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0)[:5],
        http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0) + http2.headers(1, {":method": "POST"})[:12],
    )
    with ExitStack() as stack:
        slow = [stack.enter_context(http2.connect(site.address, site.tls)) for _ in range(40)]
        plain = [stack.enter_context(http2.connect(site.address, None)) for _ in range(40)]
        for number, connection in enumerate(slow):
            connection.sendall(beginnings[number % len(beginnings)])
        streams = stack.enter_context(http2.connect(site.address, site.tls))
        streams.sendall(http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0))
        fields = http2.call(site.address, site.keys["recommend"])
        for stream in STREAMS:
            announced = http2.frame(http2.DATA, 0, stream, b"\0\0\0\x03\xe8")
            streams.sendall(http2.headers(stream, fields) + announced)
        with unharmed(site):
            pass
        yield Unfinished([*plain, *slow[3 :: len(beginnings)]], streams)


def test_thousands_of_idle_connections_take_nothing_from_others(site: Site) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(10_000, hard - 2_000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 1_000), hard))
    try:
        with ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(http2.connect(site.address, None))
            with unharmed(site):
                pass
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_streams_that_are_reset_at_once_cost_others_nothing(site: Site) -> None:
    with ExitStack() as stack:
        for key in (site.keys["recommend"], "rsk_" + "a" * 43):
            connection = stack.enter_context(http2.connect(site.address, site.tls))
            connection.sendall(http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0))
            fields = http2.call(site.address, key)
            try:
                for first in range(1, 40_000, 200):
                    streams = range(first, first + 200, 2)
                    connection.sendall(b"".join(http2.headers(one, fields) + http2.reset(one) for one in streams))
            except OSError:
                pass  # the gateway has had enough
        with unharmed(site):
            pass


def test_bytes_that_are_no_protocol_are_no_use(site: Site) -> None:
    with unharmed(site):
        for sent in (b"\0" * 4096, os.urandom(4096), b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"a" * 9000):
            with http2.connect(site.address, None) as connection:
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                assert http2.is_closed(connection)


# --- little of everything ---


def run_inside(home: Path, prepare: str, tmp_path: Path, *within: str) -> subprocess.CompletedProcess[str]:
    """Serve in a shell that was prepared, ask it once when it is ready, and stop it.

    Args:
        home: What to serve.
        prepare: Runs before, in the same shell.
        tmp_path: For the file that says that it is ready.
        within: Command that runs the shell.
    """
    ready, command = (
        tmp_path / "ready.json",
        " ".join(serve_command(home, "--ready-file", str(tmp_path / "ready.json"))),
    )
    script = f"""
{prepare}
{command} &
serving=$!
while [ ! -f {ready} ] && kill -0 $serving 2>/dev/null; do :; sleep 0.05; done
if [ -f {ready} ]; then
    address=$({sys.executable} -c "import json; print(json.load(open('{ready}'))['grpc'])")
    {sys.executable} -m recserve_client.cli.main recommend --address $address --text 'a heist' --json
fi
kill $serving 2>/dev/null
wait $serving
"""
    return subprocess.run([*within, "bash", "-c", script], capture_output=True, text=True, timeout=200, check=False)


def test_256_files_are_enough(tiny_home: Path, tmp_path: Path) -> None:
    ran = run_inside(copy_home(tiny_home, tmp_path / "home"), "ulimit -n 256", tmp_path)
    assert (ran.returncode, '"items":[{' in ran.stdout) == (0, True), ran.stderr


@pytest.mark.parametrize(("size", "is_enough"), [("64m", True), ("8m", False)])
def test_shared_memory_of_64_mb_is_enough_and_too_little_is_said(
    size: str, is_enough: bool, tiny_home: Path, tmp_path: Path
) -> None:
    within = ("unshare", "-m")
    if shutil.which("unshare") is None or subprocess.run([*within, "true"], check=False).returncode:
        pytest.skip("mounts of one's own are not allowed here")
    # What is mounted in a namespace of its own is gone with it.
    prepare = f"mount -t tmpfs -o size={size} tmpfs /dev/shm || exit 77"
    ran = run_inside(copy_home(tiny_home, tmp_path / "home"), prepare, tmp_path, *within)
    assert ran.returncode != 77, ran.stderr
    if is_enough:
        assert (ran.returncode, '"items":[{' in ran.stdout) == (0, True), ran.stderr
    else:
        assert ran.returncode == 1
        assert "shared memory" in ran.stderr
        assert "Traceback" not in ran.stderr


# --- last, as it takes until now ---


def test_callers_that_never_finish_their_first_words_are_let_go(unfinished: Unfinished) -> None:
    assert all(http2.is_closed(connection) for connection in unfinished.callers)


def test_streams_that_are_begun_and_left_open_are_ended(unfinished: Unfinished) -> None:
    assert http2.ended(unfinished.streams, len(STREAMS)) == set(STREAMS)
