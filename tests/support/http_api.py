"""The HTTP API in a process of its own, ended with a check; what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_START_S = 30
_STOP_S = 20


@contextmanager
def http_api(grpc: str, *options: str, code: int = 0) -> Iterator[str]:
    """Run `recserve http` on a free port; yields its host:port, and stops it with SIGTERM.

    Args:
        grpc: host:port of the server it asks.
        options: Of `recserve http`.
        code: Exit code it must have.
    """
    program = [sys.executable, "-m", "recserve_client.cli.main", "http", "--address", grpc, "--port", "0"]
    with tempfile.TemporaryDirectory() as aside:
        ready, log = Path(aside) / "ready.json", Path(aside) / "log"
        with log.open("wb") as stream:
            command = [*program, "--ready-file", str(ready), *options]
            process = subprocess.Popen(command, stdout=stream, stderr=stream, env={**os.environ, "COLUMNS": "200"})
        try:
            deadline = time.monotonic() + _START_S
            while not ready.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"the HTTP API did not start:\n{log.read_text()}")
                time.sleep(0.02)
            yield str(json.loads(ready.read_text())["http"])
        finally:
            process.send_signal(signal.SIGTERM)
            ended = process.wait(_STOP_S)
            written = log.read_text()
            assert ended == code, f"exit code {ended}; the log:\n{written}"
            assert "Traceback" not in written, written


def refused(answer: Any, status: int, kind: str) -> Any:
    """The problem document of an answer, whose status and kind are checked."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["kind"]) == (status, status, kind), problem
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["type"] == f"urn:problem-type:recserve:{kind}"
    assert "Traceback" not in answer.text
    return problem
