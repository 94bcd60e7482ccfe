"""TLS and mutual TLS of a real Triton: who is let in, and that the supervisor is."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import psutil
import pytest

from recserve_client import Client, ClientOptions, Tls, item
from recserve_client.errors import RecserveError, Unauthenticated, Unavailable
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


def shown_certificate(address: str, authority: Authority) -> str:
    """The certificate that a server shows, PEM."""
    host, _, port = address.rpartition(":")
    return ssl.get_server_certificate((host, int(port)), ca_certs=str(authority.cert), timeout=10)


def test_a_renewed_certificate_is_taken_without_a_failed_request(
    tiny_home: Path, films: list[str], tmp_path: Path
) -> None:
    """Callers that keep their connection, and others that open one for every few calls; none tries twice."""
    ours = Authority(tmp_path, "ours")
    failed: list[str] = []
    counts, done = Counter[bool](), threading.Event()

    def call(address: str, *, keep: bool) -> None:
        while not done.is_set():
            with Client(address, ONCE, tls=Tls(ca=ours.cert)) as client:
                while not done.is_set():
                    try:
                        client.recommend([item(films[0])], k=3)
                    except RecserveError as error:
                        failed.append(f"{keep}: {error.status}: {error.message}")
                    counts[keep] += 1
                    if not keep and counts[keep] % 5 == 0:
                        break
                    done.wait(0.005)  # the start of the second server needs some of the CPU

    with served(tiny_home, settings=f"{settings(ours)}connection_age_s = 2\n") as server, ThreadPoolExecutor(2) as pool:
        before, first = shown_certificate(server.grpc, ours), server.triton().pid
        callers = [pool.submit(call, server.grpc, keep=keep) for keep in (True, False)]
        Path(tmp_path / "server.key").write_text("not yet the key of the other")
        server.wait_for("certificate_refused")
        ours.issue("server", "recs.test", "127.0.0.1")
        server.wait_for("certificate_renewed", timeout_s=90)
        with Client(server.grpc, ONCE, tls=Tls(ca=ours.cert)) as client:
            assert all(client.recommend([item(films[0])]).items for _ in range(50))
        done.set()
        for caller in callers:
            caller.result(timeout=30)
        assert failed == []
        assert min(counts.values()) > 100
        assert shown_certificate(server.grpc, ours) != before
        assert not psutil.pid_exists(first)
        assert server.triton().pid != first
        assert httpx.get(f"http://{server.metrics}/metrics", trust_env=False).status_code == 200
        server.stub("recommend").kill()
        server.wait_for("model_reloaded")
        server.triton().kill()  # what is started again has the new certificate, too
        server.wait_for("server_restarted", timeout_s=60)
        with Client(server.grpc, ONCE, tls=Tls(ca=ours.cert)) as client:
            assert client.ready()
