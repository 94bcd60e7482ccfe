"""Bursts of both clients against a small gRPC server: calls wait for places, and all are answered."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from recserve_client import AsyncClient, Client, ClientOptions, item
from recserve_client.contract import Slate
from recserve_client.errors import DeadlineExceeded
from recserve_client.throttle import Throttle
from support.inference_server import SLATE, InferenceServer


def test_a_burst_of_the_blocking_client_is_answered(server: InferenceServer, address: str) -> None:
    with Client(address, ClientOptions(deadline_s=600)) as client, ThreadPoolExecutor(500) as pool:
        server.release.clear()
        found = [pool.submit(client.recommend, [item("a")]) for _ in range(500)]
        while client._throttle.waiting < 500 - Throttle.FIRST:
            assert not any(one.done() for one in found)
        server.release.set()
        assert [one.result() for one in found] == [SLATE] * 500
    assert len(server.requests) == 500


def test_a_burst_of_the_asyncio_client_is_answered(server: InferenceServer, address: str) -> None:
    async def run() -> list[Slate]:
        async with AsyncClient(address, ClientOptions(deadline_s=600)) as client:
            return await asyncio.gather(*(client.recommend([item("a")]) for _ in range(500)))

    assert asyncio.run(run()) == [SLATE] * 500
    assert len(server.requests) == 500


def test_a_call_that_waits_ends_with_its_deadline(server: InferenceServer, address: str) -> None:
    async def run() -> None:
        async with AsyncClient(address, ClientOptions(deadline_s=600)) as client:
            places = [client._throttle.enter(600) for _ in range(int(Throttle.FIRST))]
            with pytest.raises(DeadlineExceeded, match="before the call was sent"):
                await client.recommend([item("a")], deadline_s=0.02)
            for place in places:
                assert isinstance(place, int)
                client._throttle.leave(place, 0.1, refused=False)
            sent = [client.recommend([item("a")]) for _ in places]
            assert await asyncio.gather(*sent) == [SLATE] * len(sent)

    asyncio.run(run())
