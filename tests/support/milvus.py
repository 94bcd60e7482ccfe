"""A private Milvus standalone server for tests: the real one, from the wheel `milvus`, in a temporary folder."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_START_S = 90
_PORTS = (
    "root_coord", "proxy", "proxy_internal", "query_coord", "query_node", "index_coord", "index_node", "data_coord",
    "data_node",
)  # fmt: skip
#: What differs from the wheel's configuration, and why.
_SETTINGS = {
    # The interim index of segments that are not indexed yet leaves out results under selective filters.
    "queryNode.segcore.interimIndex.enableIndex": "false",
    # With the default of 200 ms a read that must see the last write waits as long.
    "proxy.timeTickInterval": "20",
    "log.level": "warn",
    # After a kill it takes itself for alive as long as this, and loads nothing (30 s by default).
    "common.session.ttl": "3",
    # How often it looks for work: a test waits for a load.
    "queryCoord.checkInterval": "50",
    "queryCoord.distPullInterval": "50",
    "queryCoord.checkHandoffInterval": "200",
}


class NoMilvusError(Exception):
    """No server can be started here; the message says why."""


@dataclass
class MilvusProcess:
    """A server that can be killed and started again.

    Attributes:
        folder: Holds its programs, data and logs.
        port: Of gRPC; the same after a restart.
        health_port: Of its health check.
    """

    folder: Path
    port: int
    health_port: int
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def uri(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, *, wait: bool = True) -> None:
        """Start it and, unless told otherwise, wait until it is healthy."""
        programs = self.folder / "bin"
        environment = {
            **os.environ,
            "DEPLOY_MODE": "STANDALONE",
            "METRICS_PORT": str(self.health_port),
            "MILVUS_RUN_DIR": str(self.folder / "run"),
            "LD_LIBRARY_PATH": str(programs),
        }
        with (self.folder / "output.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(programs / "milvus"), "run", "standalone"],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
            )  # fmt: skip
        if wait:
            self._wait()

    def kill(self) -> None:
        """End it as a crash would: it ignores SIGTERM in any case."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_S
        while not self._is_healthy():
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise NoMilvusError(f"Milvus does not start here:\n{self.last_lines()}")
            time.sleep(0.05)

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/healthz", timeout=5) as answer:
                return b"OK" in answer.read()
        except OSError:
            return False

    def last_lines(self) -> str:
        """The end of what it wrote."""
        log = self.folder / "output.log"
        return log.read_text(errors="replace")[-3000:] if log.exists() else ""


@contextmanager
def milvus_server() -> Iterator[MilvusProcess]:
    """Unpack and start a server, and leave nothing of it behind.

    Raises:
        NoMilvusError: The wheel is not installed, or does not run here.
    """
    if importlib.util.find_spec("milvus") is None:
        raise NoMilvusError("the wheel milvus is not installed (it comes with recserve[dev] on x86-64)")
    folder = Path(tempfile.mkdtemp(prefix="recserve-milvus-"))
    try:
        server = _unpacked(folder)
        try:
            server.start()
            yield server
        finally:
            if server.process is not None:
                server.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unpacked(folder: Path) -> MilvusProcess:
    """The programs and the configuration of a server that shares no port with any other."""
    import milvus

    ports = dict(zip((*_PORTS, "etcd", "etcd_peer", "health"), _free_ports(len(_PORTS) + 3), strict=True))
    etcd = folder / "etcd.yaml"
    client, peer = (f"http://127.0.0.1:{ports[name]}" for name in ("etcd", "etcd_peer"))
    etcd.write_text(
        f"name: test\nlisten-client-urls: {client}\nadvertise-client-urls: {client}\nlisten-peer-urls: {peer}\n"
        f"initial-advertise-peer-urls: {peer}\ninitial-cluster: test={peer}\n"
    )
    named = {f"{name}_port": ports[name] for name in _PORTS}
    config = milvus.MilvusServerConfig(data_dir=str(folder), etcd_port=ports["etcd"], **named)
    # The template does not name this setting, so it cannot be set.
    config.template_text = config.template_text.replace("\netcd:\n", f"\netcd:\n  config:\n    path: {etcd}\n")
    for name, value in _SETTINGS.items():
        config.set(name, value)
    config.resolve()
    milvus._initialize_data_files(str(folder))
    return MilvusProcess(folder, ports["proxy"], ports["health"])


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()
