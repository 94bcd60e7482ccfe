"""TLS and mutual TLS of a real Triton: who is let in, and that the supervisor is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from recserve_client import Client, ClientOptions, Tls, item
from recserve_client.errors import Unavailable
from support.certificates import Authority
from support.served import serve_command, served
from support.wire import Wire

pytestmark = pytest.mark.triton
ONCE = ClientOptions(tries=1, deadline_s=10)


def settings(server: Authority, clients: Authority | None = None) -> str:
    files = server.issue("server", "recs.test", "127.0.0.1")
    asked = f'client_ca = "{clients.cert}"\n' if clients else ""
    return f'[tls]\ncert = "{files.cert}"\nkey = "{files.key}"\n{asked}'


def refused(address: str, tls: Tls | None, films: list[str]) -> None:
    with Client(address, ONCE, tls=tls) as client, pytest.raises(Unavailable):
        client.recommend([item(films[0])])


def test_tls_is_asked_for_and_the_server_is_who_it_says(tiny_home: Path, films: list[str], tmp_path: Path) -> None:
    ours, others = Authority(tmp_path, "ours"), Authority(tmp_path, "others")
    with served(tiny_home, settings=settings(ours)) as server:
        for name in ("", "recs.test"):
            with Client(server.grpc, ONCE, tls=Tls(ca=ours.cert, server_name=name)) as client:
                assert client.recommend([item(films[0])]).items
                assert client.ready()
        refused(server.grpc, None, films)
        refused(server.grpc, Tls(ca=others.cert), films)
        refused(server.grpc, Tls(ca=ours.cert, server_name="other.test"), films)
        assert server.logged("model_unhealthy", "server_exited") == []
        command = [sys.executable, "-m", "recserve_client.cli.main", "recommend", "--item", films[0], "--json"]
        told = {"RECSERVE_ADDRESS": server.grpc, "RECSERVE_TLS_CA": str(ours.cert)}
        ran = subprocess.run(command, env={**os.environ, **told}, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr


def test_mutual_tls_lets_in_whom_the_authority_knows(tiny_home: Path, films: list[str], tmp_path: Path) -> None:
    ours, clients, others = (Authority(tmp_path, name) for name in ("ours", "clients", "others"))
    known, stranger = clients.issue("app"), others.issue("stranger")
    with served(tiny_home, settings=settings(ours, clients)) as server:
        with Client(server.grpc, ONCE, tls=Tls(ca=ours.cert, cert=known.cert, key=known.key)) as client:
            assert client.recommend([item(films[0])]).items
        refused(server.grpc, Tls(ca=ours.cert), films)
        refused(server.grpc, Tls(ca=ours.cert, cert=stranger.cert, key=stranger.key), films)
        with pytest.raises(grpc.RpcError):
            Wire(server.grpc).ask("recommend", {"history": [{"item": films[0]}]}, timeout_s=5)
        server.stub("recommend").kill()
        server.wait_for("model_reloaded")  # the supervisor has a certificate of its own


def test_beyond_loopback_plain_text_needs_to_be_asked_for(tiny_home: Path) -> None:
    command = serve_command(tiny_home, "--host", "0.0.0.0")
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 1
    assert "--insecure" in ran.stderr
    assert "[tls]" in ran.stderr
