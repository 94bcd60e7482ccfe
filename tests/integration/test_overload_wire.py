"""More requests than a real Triton can answer in time: refused at once, by name, and nothing is broken afterwards."""

from __future__ import annotations

import asyncio
import re
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2_grpc

from recserve_client import AsyncClient, Client, ClientOptions, NewItem, RecommendRequest, item, text
from recserve_client.calls import request
from recserve_client.contract import ErrorKind, retry_after_ms, split_message
from recserve_client.errors import DeadlineExceeded, Overloaded
from support.served import Served, served
from support.tiny_home import copy_home
from support.wire import Wire

pytestmark = pytest.mark.triton
#: More at once than the server takes in, and no more than a client sends or lets wait.
BURST = 500


def shed(server: Served) -> dict[str, float]:
    """Shed requests by model, queue and reason, as the metrics page has them."""
    page = urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=10).read().decode()
    return {labels: float(total) for labels, total in re.findall(r"recserve_requests_shed_total\{(.*)\} (\S+)", page)}


def test_the_deadline_travels_with_the_request(tiny_server: Served, wire: Wire) -> None:
    call = request(RecommendRequest([text("a text that nobody sent before")]))
    call.request.parameters["timeout"].int64_param = 1
    with pytest.raises(grpc.RpcError) as caught:
        wire._stub.ModelInfer(call.request, timeout=30)
    kind, told = split_message(caught.value.details() or "")
    assert (caught.value.code(), kind) == (grpc.StatusCode.UNAVAILABLE, ErrorKind.OVERLOADED)
    assert (retry_after_ms(told) or 0) >= 1
    pause = threading.Event()
    for _ in range(100):
        if any('reason="late"' in labels and total for labels, total in shed(tiny_server).items()):
            break
        pause.wait(0.1)  # sampled once a second
    else:
        raise AssertionError("the metric did not count it")


@pytest.mark.parametrize("kind", ["texts", "known"])
def test_a_burst_is_answered_and_leaves_nothing_behind(tiny_server: Served, films: list[str], kind: str) -> None:
    histories = [[text(f"burst {n}") if kind == "texts" else item(films[n % len(films)])] for n in range(BURST)]

    async def ask(client: AsyncClient, number: int) -> str:
        try:
            slate = await client.recommend(histories[number], deadline_s=20)
        except (Overloaded, DeadlineExceeded) as error:
            return type(error).__name__
        assert slate.items
        return "answered"

    async def burst() -> Counter[str]:
        async with AsyncClient(tiny_server.grpc) as client:
            return Counter(await asyncio.gather(*(ask(client, number) for number in range(BURST))))

    found = asyncio.run(burst())
    # A server that others keep busy may refuse some of them more often than a call is tried.
    assert found["answered"] >= 400
    assert found.total() == BURST
    with Client(tiny_server.grpc) as client:
        assert client.recommend(histories[-1]).items
        assert client.ready()


class Storm:
    """Callers that ask for texts that are not known, again and again, and hold nothing back."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._end = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._rage()))
        self.refused = threading.Event()
        self.found = Counter[str]()

    def __enter__(self) -> Storm:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    async def _rage(self) -> None:
        async with grpc.aio.insecure_channel(self._address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            await asyncio.gather(*(self._caller(stub, number) for number in range(BURST)))

    async def _caller(self, stub: service_pb2_grpc.GRPCInferenceServiceStub, number: int) -> None:
        for turn in count():
            if self._end.is_set():
                return
            message = request(RecommendRequest([text(f"storm {number} {turn}")])).request
            message.parameters["timeout"].int64_param = 1_000_000
            try:
                await stub.ModelInfer(message, timeout=60)
                self.found["answered"] += 1
            except grpc.RpcError as error:
                kind, _ = split_message(error.details() or "")
                self.found[str(kind)] += 1
                if kind == ErrorKind.OVERLOADED:
                    self.refused.set()


@pytest.fixture
def apart(tiny_home: Path, tmp_path: Path) -> Iterator[Served]:
    """A server of its own: a storm leaves short queues behind."""
    with served(copy_home(tiny_home, tmp_path / "home")) as server:
        yield server


def test_upserts_survive_a_storm_of_reads(apart: Served) -> None:
    new = [NewItem(f"storm-{number}", {"title": f"A lighthouse in storm {number}"}) for number in range(20)]
    with Client(apart.grpc, ClientOptions(deadline_s=30, tries=1)) as client, Storm(apart.grpc) as storm:
        assert storm.refused.wait(60)
        results = [client.items.upsert([one]).results[0].status for one in new]
        under_way = dict(storm.found)
    assert results == ["created"] * len(new)
    assert under_way[ErrorKind.OVERLOADED] > 0
    assert set(storm.found) <= {"answered", ErrorKind.OVERLOADED}
    with Client(apart.grpc, ClientOptions(deadline_s=30)) as client:
        assert [one.id for one in client.items.get([one.id for one in new]).items] == [one.id for one in new]
