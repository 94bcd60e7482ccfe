"""The load generator against a gRPC server in this process, and the raw search in its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.harness.load import generate, read_blobs
from recserve_benchmarks.recommend.raw import RawProcess
from support.small_snapshot import small_snapshot


class Upper(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs only
    """Answers in upper case, refuses `bad`, and remembers what it got and how many were with it at a time."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        return grpc.unary_unary_rpc_method_handler(self._answer)

    def _answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        with self._lock:
            self.seen.append(request)
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            if request == b"bad":
                context.abort(grpc.StatusCode.UNAVAILABLE, "no")
            return request.upper()
        finally:
            with self._lock:
                self._now -= 1


@pytest.fixture
def upper() -> Iterator[tuple[str, Upper]]:
    handler = Upper()
    server = grpc.server(ThreadPoolExecutor(8), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", handler
    server.stop(None).wait()


def test_every_request_is_sent_once_and_answers_keep_their_order(upper: tuple[str, Upper], tmp_path: Path) -> None:
    address, handler = upper
    requests = [f"request {number}".encode() for number in range(50)]
    outcome = generate(address, requests, 4, answers=tmp_path / "answers")
    assert (outcome.users, outcome.errors) == (50, {})
    assert list(read_blobs(tmp_path / "answers")) == [request.upper() for request in requests]
    assert sorted(handler.seen) == sorted(requests)
    assert 1 <= handler.most <= 4
    assert 0 < outcome.p50_ms <= outcome.p99_ms
    assert outcome.users_per_s == pytest.approx(50 / outcome.wall_s)


def test_failed_requests_are_counted_by_status_and_not_as_users(upper: tuple[str, Upper]) -> None:
    outcome = generate(upper[0], [b"good", b"bad", b"good", b"bad"], 2)
    assert (outcome.users, outcome.errors) == (2, {"UNAVAILABLE": 2})


def test_raw_search_that_cannot_start_is_an_error(tmp_path: Path) -> None:
    with RawProcess(tmp_path, tmp_path) as raw, pytest.raises(BenchmarkError, match="raw search ended"):
        raw.known(np.zeros((1, 2), np.int64))


def test_raw_search_answers_known_items_and_texts(tiny_home: Path) -> None:
    with RawProcess(tiny_home, tiny_home / "encoder" / "fp32") as raw:
        known = raw.known(np.arange(40).reshape(20, 2), batch=1)
        texts = raw.texts([["star wars", "alien"], ["heat", "casino"]])
    assert (known.users, texts.users) == (20, 2)
    for cost in (known, texts):
        assert cost.cpu_s > 0
        assert cost.cpu_us == pytest.approx(cost.cpu_s / cost.users * 1e6)
        assert 0 < cost.call_p50_ms <= cost.wall_s * 1000


def test_raw_search_refuses_a_snapshot_of_another_encoder(tiny_home: Path, tmp_path: Path) -> None:
    small_snapshot(tmp_path / "snapshots")
    with (
        RawProcess(tmp_path, tiny_home / "encoder" / "fp32") as raw,
        pytest.raises(BenchmarkError, match="raw search ended"),
    ):
        raw.known(np.zeros((1, 2), np.int64))
