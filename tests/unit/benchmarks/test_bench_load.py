"""Processes of the benchmarks: the load generator against a gRPC server here, the raw search, and what carries jobs."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import grpc
import numpy as np
import pytest

from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.harness.contention import CpuContention, RunContention
from recserve_benchmarks.harness.load import Load, Outcome, load_generator
from recserve_benchmarks.harness.worker import Worker
from recserve_benchmarks.recommend.raw import RawJob, raw_search
from recserve_server_ext.common import cpu
from recserve_server_ext.common.workspace import Workspace
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


@pytest.fixture(scope="module")
def generator() -> Iterator[Worker[Load, Outcome]]:
    with load_generator() as worker:
        yield worker


def test_every_request_is_sent_once_and_answers_keep_their_order(
    upper: tuple[str, Upper], generator: Worker[Load, Outcome]
) -> None:
    address, handler = upper
    requests = [f"request {number}".encode() for number in range(50)]
    outcome = generator.ask(Load(address, requests, 4, keep_answers=True))
    assert (outcome.users, outcome.errors) == (50, {})
    assert outcome.answers == [request.upper() for request in requests]
    assert sorted(handler.seen) == sorted(requests)
    assert 1 <= handler.most <= 4
    assert 0 < outcome.p50_ms <= outcome.p99_ms
    assert outcome.users_per_s == pytest.approx(50 / outcome.wall_s)
    assert outcome.moments.shape == (50, 2)
    # The histogram has three digits, of whole microseconds.
    middle = np.percentile(outcome.moments[:, 1], 50, method="inverted_cdf")
    assert middle == pytest.approx(outcome.p50_ms, rel=0.002, abs=0.002)


def test_failed_requests_are_counted_by_status_and_not_as_users(
    upper: tuple[str, Upper], generator: Worker[Load, Outcome]
) -> None:
    outcome = generator.ask(Load(upper[0], [b"good", b"bad", b"good", b"bad"], 2))
    assert (outcome.users, outcome.errors, outcome.answers) == (2, {"UNAVAILABLE": 2}, [])


def test_a_load_may_go_on_until_a_file_appears(
    upper: tuple[str, Upper], generator: Worker[Load, Outcome], tmp_path: Path
) -> None:
    address, handler = upper
    stop = tmp_path / "stop"
    with ThreadPoolExecutor(1) as thread:
        load = thread.submit(generator.ask, Load(address, [b"one", b"two"], 2, until=stop))
        while len(handler.seen) < 20:
            time.sleep(0.01)
        stop.touch()
        outcome = load.result(30)
    assert outcome.users == len(handler.seen) >= 20
    assert outcome.errors == {}


def test_raw_search_that_cannot_start_is_an_error(tmp_path: Path) -> None:
    with raw_search(Workspace(tmp_path), tmp_path) as raw, pytest.raises(BenchmarkError, match="raw search ended"):
        raw.ask(RawJob(np.zeros((1, 2), np.float32)))


def test_raw_search_answers_user_vectors_and_texts(tiny_home: Path) -> None:
    with raw_search(Workspace(tiny_home), tiny_home / "encoder" / "fp32") as raw:
        known = raw.ask(RawJob(np.eye(20, 32, dtype=np.float32), batch=1))
        texts = raw.ask(RawJob([["star wars", "alien"], ["heat", "casino"]]))
    for cost, users in ((known, 20), (texts, 2)):
        assert cost.cpu_us > 0
        assert cost.users_per_s > 0
        assert 0 < cost.p50_ms <= users / cost.users_per_s * 1000


def test_raw_search_refuses_a_snapshot_of_another_encoder(tiny_home: Path, tmp_path: Path) -> None:
    small_snapshot(tmp_path / "snapshots")
    with (
        raw_search(Workspace(tmp_path), tiny_home / "encoder" / "fp32") as raw,
        pytest.raises(BenchmarkError, match="raw search ended"),
    ):
        raw.ask(RawJob(np.zeros((1, 2), np.float32)))


def test_what_a_process_prints_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "chatty.py").write_text(
        "def make(factor):\n"
        "    def work(job):\n"
        "        print('advice of a library', flush=True)\n"
        "        return factor * job\n"
        "    return work\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    path = ":".join(filter(None, sys.path))
    with Worker("chatty", import_module("chatty").make, 2.0, environment={"PYTHONPATH": path}) as worker:
        assert [worker.ask(value) for value in (1.0, 2.0)] == [2.0, 4.0]


def test_own_cpu_time_is_no_contention() -> None:
    contention, start_s = CpuContention(), time.process_time()
    while time.process_time() - start_s < 0.3:  # the kernel counts in hundredths: a moment has any share
        pass
    # Own time is not counted: alone on the machine it is near 0, and never more than all cores and that rounding.
    assert 0 <= contention.share() <= 1.2


def test_a_run_looks_at_the_machine_before_and_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    others_s = iter([0.0, 1.0, 1.0, 5.0, 5.0, 7.0])  # two readings of each: before, during, after
    moments = iter([0.0, 2.0, 2.0, 10.0, 10.0, 12.0])
    monkeypatch.setattr("recserve_benchmarks.harness.contention._others_s", lambda: next(others_s))
    monkeypatch.setattr(time, "monotonic", lambda: next(moments))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(cpu, "usable_cores", lambda: 2)
    assert RunContention().shares() == {"before": 0.25, "during": 0.25, "after": 0.5}
