"""The HTTP API in a process of its own, ended with a check; what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from support.program import program

_STOP_S = 20


@contextmanager
def http_api(grpc: str, *options: str, code: int = 0) -> Iterator[str]:
    """Run `recserve http` on a free port; yields its host:port, and stops it with SIGTERM.

    Args:
        grpc: host:port of the server it asks.
        options: Of `recserve http`.
        code: Exit code it must have.
    """
    with program(("http", "--address", grpc, *options), code=code, stop_s=_STOP_S) as running:
        yield str(running.ready["http"])


def refused(answer: Any, status: int, kind: str) -> Any:
    """The problem document of an answer, whose status and kind are checked."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["kind"]) == (status, status, kind), problem
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["type"] == f"urn:problem-type:recserve:{kind}"
    assert "Traceback" not in answer.text
    return problem
