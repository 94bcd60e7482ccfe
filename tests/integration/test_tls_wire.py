"""TLS and mutual TLS of a real Triton: who is let in, and that the supervisor is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import grpc
import httpx
import pytest

from recserve_client import Client, ClientOptions, Tls, item
from recserve_client.errors import Unauthenticated, Unavailable
from support.certificates import Authority
from support.http_api import http_api
from support.keys import REQUIRED, keys_of
from support.served import serve_command, served
from support.tiny_home import copy_home
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


def test_tls_is_asked_for_and_the_server_is_who_it_says(
    tiny_home: Path, films: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        monkeypatch.setenv("RECSERVE_TLS_CA", str(ours.cert))
        with http_api(server.grpc) as http:
            assert httpx.get(f"http://{http}/v1/health/ready", timeout=30, trust_env=False).status_code == 200


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


@pytest.mark.parametrize(
    ("written", "missing"),
    [
        ("", "metrics_host"),
        ('metrics_host = "127.0.0.1"', "[tls]"),
        ('metrics_host = "127.0.0.1"\n[auth]\nrequired = true', "[tls]"),
        ('metrics_host = "127.0.0.1"\n{tls}', "[auth]"),
        ('metrics_host = "127.0.0.1"\n{tls}\n[auth]\nrequired = true\n[encoder]\ntarget = "onnxruntime"', "client_ca"),
        ("{tls}\n[auth]\nrequired = true", "metrics_host"),
    ],
)
def test_beyond_loopback_tls_and_keys_are_needed(written: str, missing: str, tiny_home: Path, tmp_path: Path) -> None:
    config = tmp_path / "settings.toml"
    config.write_text(written.replace("{tls}", settings(Authority(tmp_path, "ours"))))
    command = serve_command(tiny_home, "--host", "0.0.0.0", "--config", str(config))
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 1
    assert "--insecure" in ran.stderr
    assert missing in ran.stderr


def test_with_tls_and_keys_it_listens_everywhere(tiny_home: Path, tmp_path: Path) -> None:
    home, ours = copy_home(tiny_home, tmp_path / "home"), Authority(tmp_path, "ours")
    key = keys_of(home)["recommend"]
    written = f'metrics_host = "127.0.0.1"\n{settings(ours)}{REQUIRED}'
    with served(home, "--host", "0.0.0.0", settings=written) as server:
        tls = Tls(ca=ours.cert)
        with Client(server.grpc, ONCE, tls=tls, key=key) as client:
            assert client.ready()
        with Client(server.grpc, ONCE, tls=tls) as client, pytest.raises(Unauthenticated):
            client.ready()
        assert server.metrics.startswith("127.0.0.1:")


def test_a_socket_is_for_those_who_may_open_its_folder(tiny_home: Path, tmp_path: Path) -> None:
    home = copy_home(tiny_home, tmp_path / "home")
    key = keys_of(home)["recommend"]
    folder = tempfile.mkdtemp()  # pytest's own are too long for a socket
    with served(home, settings=f'grpc_socket = "{folder}/grpc"\n{REQUIRED}') as server:
        assert server.grpc.startswith(f"unix:{folder}/grpc:")
        with Client(server.grpc, ONCE, key=key) as client:
            assert client.ready()
        with http_api(server.grpc) as http:
            ready = f"http://{http}/v1/health/ready"
            assert httpx.get(ready, timeout=30, trust_env=False).status_code == 401
            given = {"x-api-key": key}
            assert httpx.get(ready, headers=given, timeout=30, trust_env=False).status_code == 200
        server.stub("embed").kill()
        server.wait_for("model_reloaded")
        listening = {one.laddr.port for one in server.triton().net_connections("inet") if one.status == "LISTEN"}
        assert listening == {int(server.metrics.rpartition(":")[2])}
    shutil.rmtree(folder)
