"""A real server for tests: `recserve serve` in a process of its own, on free ports, ended with a check."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

_START_S = 150
_STOP_S = 40


@dataclass
class Served:
    """A running server.

    Attributes:
        home: What it serves.
        grpc: host:port.
        metrics: host:port.
        process: The `recserve serve` process.
        log: What it wrote.
    """

    home: Path
    grpc: str
    metrics: str
    process: subprocess.Popen[bytes]
    log: Path

    def triton(self) -> psutil.Process:
        """The tritonserver it runs now."""
        (server,) = [p for p in psutil.Process(self.process.pid).children() if "tritonserver" in p.name()]
        return server

    def stub(self, model: str) -> psutil.Process:
        """The Python process of a model, with or without the fingerprint of an encoder in its name."""
        code = re.compile(rf"/{model}(_[0-9a-f]{{8}})?/1/model\.py")
        children = [p for p in self.triton().children() if p.status() != psutil.STATUS_ZOMBIE]
        (stub,) = [p for p in children if any(code.search(argument) for argument in p.cmdline())]
        return stub

    def events(self) -> list[dict[str, Any]]:
        """The supervisor's log so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def logged(self, *events: str) -> list[dict[str, Any]]:
        """What the supervisor has logged of these events."""
        return [entry for entry in self.events() if entry["event"] in events]

    def wait_for(self, *events: str, count: int = 1, timeout_s: float = 30) -> list[dict[str, Any]]:
        """Wait until one of these events was logged, `count` times in all."""
        deadline = time.monotonic() + timeout_s
        while len(found := self.logged(*events)) < count:
            if time.monotonic() > deadline:
                raise AssertionError(f"no {events} (x{count}) within {timeout_s} s; the log:\n{self.log.read_text()}")
            time.sleep(0.05)
        return found


def serve_command(home: Path, *options: str) -> list[str]:
    """`recserve serve` on free ports, logging JSON."""
    program = [sys.executable, "-m", "recserve_client.cli.main", "serve", "--home", str(home), "--log-json"]
    return [*program, "--grpc-port", "0", "--metrics-port", "0", *options]


@contextmanager
def served(home: Path, *options: str, settings: str = "", code: int = 0) -> Iterator[Served]:
    """Start a server, wait until it is ready, and stop it with SIGTERM: it must exit with 0, leaving nothing behind.

    Args:
        home: What to serve.
        options: Of `recserve serve`.
        settings: TOML that the server is configured with.
        code: Exit code it must have instead, when the test ends it itself.
    """
    with tempfile.TemporaryDirectory() as aside:
        ready, log, config = (Path(aside) / name for name in ("ready.json", "serve.log", "settings.toml"))
        config.write_text(settings)
        with log.open("wb") as stream:
            configured = ("--config", str(config)) if settings else ()
            command = serve_command(home, "--ready-file", str(ready), *configured, *options)
            # No environment of ours on PATH: what the server needs it has to find by itself.
            environment = {**os.environ, "COLUMNS": "100", "PATH": os.defpath}
            process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)
        try:
            _wait_ready(process, ready, log)
            addresses = json.loads(ready.read_text())
            yield Served(home, addresses["grpc"], addresses["metrics"], process, log)
        finally:
            family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.send_signal(signal.SIGTERM)
            ended = process.wait(_STOP_S)
            _, left = psutil.wait_procs(family, timeout=10)
            assert ended == code, f"exit code {ended}; the log:\n{log.read_text()}"
            assert not left, f"left behind: {left}"


def wait_for_snapshot(home: Path, name: str) -> None:
    """Wait until the model says that it serves a snapshot."""
    (log,) = (home / "run").glob("*/triton.log")
    deadline = time.monotonic() + 60
    while f"serving snapshot {name}" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.05)


def _wait_ready(process: subprocess.Popen[bytes], ready: Path, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"the server did not get ready:\n{log.read_text()}")
        time.sleep(0.05)
