"""The open-loop load generator: sent at their moments whatever the answers do, and what became of each."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from recserve_benchmarks.harness.open_loop import Fate, OpenLoad, open_load_generator, poisson_moments, with_timeout


class Model(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs only
    """Does as the name of the model says."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self.end = threading.Event()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        return grpc.unary_unary_rpc_method_handler(self._answer)

    def _answer(self, raw: bytes, context: grpc.ServicerContext) -> bytes:
        request = service_pb2.ModelInferRequest.FromString(raw)
        self.seen.append((request.model_name, request.parameters["timeout"].int64_param))
        if request.model_name == "refuse":
            context.abort(grpc.StatusCode.UNAVAILABLE, "overloaded: retry_after_ms=5; full")
        if request.model_name == "fail":
            context.abort(grpc.StatusCode.INTERNAL, "internal: broken")
        if request.model_name == "hang":
            self.end.wait(30)
        return raw


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def address(model: Model) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(8), handlers=[model])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    model.end.set()
    server.stop(None).wait()


def named(*names: str) -> list[bytes]:
    return [service_pb2.ModelInferRequest(model_name=name).SerializeToString() for name in names]


def test_every_request_has_its_fate(model: Model, address: str) -> None:
    requests = named("good", "refuse", "hang", "fail")
    load = OpenLoad(address, requests, np.array([0.0, 0.01, 0.02, 0.03]), 0.5, probe=requests[0], probes=2)
    with open_load_generator() as generator:
        found = generator.ask(load)
    assert found.fates.tolist() == [Fate.GOOD, Fate.REFUSED, Fate.MISSED, Fate.FAILED]
    assert found.errors == ["INTERNAL: internal: broken"]
    assert (found.sent >= load.moments).all()
    assert found.took[2] >= 0.49
    assert np.isfinite(found.probes_took).all()
    assert found.probes_sent[0] == 0
    assert {timeout for _, timeout in model.seen} == {500_000}
    assert [name for name, _ in model.seen].count("good") == 3


def test_a_throttled_load_holds_back_what_would_be_refused(model: Model, address: str) -> None:
    load = OpenLoad(address, named("refuse"), np.arange(300) * 0.002, 0.5, throttled=True)
    with open_load_generator() as generator:
        found = generator.ask(load)
    assert set(found.fates.tolist()) == {Fate.REFUSED, Fate.HELD_BACK}
    assert len(model.seen) == (found.fates == Fate.REFUSED).sum() < 150


def test_arrivals_are_a_poisson_process() -> None:
    moments = poisson_moments(1000, 5, [1])
    assert 4700 < len(moments) < 5300
    assert moments[-1] < 5
    gaps = np.diff(moments)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)


def test_the_deadline_is_told_in_microseconds() -> None:
    (request,) = named("any")
    told = service_pb2.ModelInferRequest.FromString(with_timeout(request, 0.25))
    assert told.parameters["timeout"].int64_param == 250_000
