"""More requests than a real Triton can answer in time: refused at once, by name, and nothing is broken afterwards."""

from __future__ import annotations

import asyncio
import re
import threading
import urllib.request
from collections import Counter

import grpc
import pytest

from recserve_client import AsyncClient, Client, RecommendRequest, item, text
from recserve_client.calls import request
from recserve_client.contract import ErrorKind, retry_after_ms, split_message
from recserve_client.errors import DeadlineExceeded, Overloaded
from support.served import Served
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
