"""A real nginx with the configuration that `recserve deploy gateway` writes."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from recserve_server_ext.config.server import AuthSettings, ServeSettings, TlsSettings
from recserve_server_ext.gateway.nginx import Gateway, write_gateway
from recserve_server_ext.triton.process import claim_port
from support.certificates import Authority
from support.served import Served

_START_S = 20
_PLAIN = TlsSettings()


def nginx() -> str:
    """The program; skips the test where there is none."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        pytest.skip("there is no nginx")
    return found


@contextmanager
def gateway(
    server: Served,
    http: str,
    authority: Authority,
    server_tls: TlsSettings = _PLAIN,
    server_ca: str = "",
    **limits: Any,
) -> Iterator[str]:
    """Run nginx before a server; yields host:port, and ends it with a check.

    Args:
        server: A server that asks for keys.
        http: host:port of its HTTP API; empty for none.
        authority: Issues the certificate.
        server_tls: TLS of the server.
        server_ca: Authority that signed its certificate.
        limits: Limits of the gateway.
    """
    nginx()
    folder = authority.cert.parent / "gateway"
    files = authority.issue("gateway", "recs.test", "127.0.0.1")
    address = f"127.0.0.1:{claim_port('127.0.0.1', 0, 'the gateway')}"
    where, _, port = server.grpc.rpartition(":")
    at = {"grpc_socket": where.removeprefix("unix:")} if where.startswith("unix:") else {"host": where}
    settings = ServeSettings(grpc_port=int(port), auth=AuthSettings(required=True), tls=server_tls, **at)  # type: ignore[arg-type]
    described = Gateway(
        listen=address,
        cert=str(files.cert),
        key=str(files.key),
        http=http,
        state=str(folder / "state"),
        server_ca=server_ca,
        **limits,
    )
    written = write_gateway(described, settings, folder)
    with running_nginx(written, address):
        yield address


@contextmanager
def running_nginx(config: Path, address: str) -> Iterator[None]:
    """Run nginx until the end, which it must come to well; it listens on `address`."""
    user = f" user {pwd.getpwuid(os.getuid()).pw_name};" if os.getuid() == 0 else ""
    process = subprocess.Popen([nginx(), "-c", str(config), "-g", f"daemon off;{user}"], stderr=subprocess.PIPE)
    try:
        _wait(process, address)
        yield
    finally:
        process.send_signal(signal.SIGQUIT)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 0, said.decode()


def _wait(process: subprocess.Popen[bytes], address: str) -> None:
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((host, int(port)), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    process.kill()
    raise AssertionError(f"nginx did not start: {process.communicate()[1].decode()}")
