"""Mutated requests to a real server: no process ends, every refusal has a reason, nothing is told of the inside.

``pytest tests/nightly/kills/test_mutated_requests.py --mutations 1000000`` sends a million.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from support.mutations import mutated
from support.served import Served, served
from support.tiny_home import copy_home
from support.wire import Wire

pytestmark = [pytest.mark.triton, pytest.mark.timeout(7200)]
_AT_ONCE, _AT_A_TIME = 12, 5000
#: Nobody waits, and what is large is small.
_SETTINGS = "compact_after = 0\n[limits]\nrevision_wait_ms = 0\nrequest_bytes = 65536\nitems_bytes = 65536\n"
#: Statuses that say whose fault it was: INTERNAL and UNKNOWN are ours.
_REASONED = {
    grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.CANCELLED,
}  # fmt: skip
#: What only somebody inside knows.
_INSIDE = re.compile(
    r"Traceback|File \"|\.py\b|site-packages|sqlite|SELECT |INSERT |0x[0-9a-f]{6}|line \d+, in|/tmp/|/root"
)


@pytest.fixture
def server(tiny_home: Path, tmp_path: Path) -> Iterator[Served]:
    with served(copy_home(tiny_home, tmp_path / "home"), settings=_SETTINGS) as server:
        yield server


@pytest.fixture
def mutations(pytestconfig: pytest.Config) -> int:
    """How many requests to send."""
    return int(pytestconfig.getoption("--mutations"))


def test_no_request_does_harm(server: Served, films: list[str], mutations: int) -> None:
    before = {process.pid for process in server.triton().children()} | {server.triton().pid}
    wire, statuses = Wire(server.grpc), Counter[str]()

    def send(number: int) -> str:
        """What is wrong with the answer to a request; empty for nothing."""
        request = mutated(number, films[number % len(films)])
        try:
            answer = wire.infer(request.model, request.tensors, timeout_s=60)
        except grpc.RpcError as error:
            statuses[error.code().name] += 1
            said = error.details() or ""
            # What came may be quoted, and holds paths of its own.
            told = _INSIDE.search(said.replace("../../../etc/passwd", ""))
            wrong = error.code() not in _REASONED or told is not None or str(server.home) in said
            return f"{number}: {error.code().name}: {said[:300]}" if wrong else ""
        statuses["OK"] += 1
        for content in answer.raw_output_contents if request.model != "encoder" else ():
            json.loads(content[4:])
        return ""

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        for start in range(0, mutations, _AT_A_TIME):
            found = threads.map(send, range(start, min(start + _AT_A_TIME, mutations)))
            assert [fault for fault in found if fault][:20] == []
    print(dict(statuses))
    assert sum(statuses.values()) == mutations
    assert min(statuses["OK"], statuses["INVALID_ARGUMENT"]) > mutations / 50, statuses
    after = {process.pid for process in server.triton().children()} | {server.triton().pid}
    assert after == before
    assert server.logged("model_unhealthy", "model_reloaded", "server_exited") == []
    for model, body in (("recommend", {"history": [{"item": films[0]}]}), ("embed", {"texts": ["war"]})):
        assert wire.ask(model, body)
