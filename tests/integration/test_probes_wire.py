"""What the probes of containers see of a real Triton whose model has lost its process."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from support.served import Served, served

pytestmark = pytest.mark.triton

#: HealthCheckResponse of grpc.health.v1 with the status SERVING.
SERVING = b"\x08\x01"


def grpc_health(server: Served) -> bytes:
    """The answer of grpc.health.v1 for the whole server, which is what a gRPC probe of Kubernetes asks."""
    with grpc.insecure_channel(server.grpc) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check", bytes, bytes)
        answer: bytes = check(b"", timeout=10)
        return answer


def ready(address: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "recserve_client.cli.main", "ready", "--address", address, "--deadline", "30"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_only_a_real_recommendation_tells_that_a_model_has_no_process(tiny_home: Path) -> None:
    with served(tiny_home) as server:
        assert grpc_health(server) == SERVING
        assert ready(server.grpc).returncode == 0
        # Nobody brings the model back: the supervisor stands still.
        server.process.send_signal(signal.SIGSTOP)
        try:
            server.stub("recommend").kill()
            found = ready(server.grpc)
            assert found.returncode == 1
            assert found.stderr == f"error: the server at {server.grpc} does not recommend\n"
            assert grpc_health(server) == SERVING
        finally:
            server.process.send_signal(signal.SIGCONT)
        server.wait_for("model_reloaded")
        assert ready(server.grpc).returncode == 0


def test_nobody_there_is_not_ready() -> None:
    found = ready("127.0.0.1:1")
    assert found.returncode == 1
    assert len(found.stderr.splitlines()) == 1
