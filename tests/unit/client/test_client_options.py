"""What both clients send for filters, slates and pages, and many requests at once."""

from __future__ import annotations

import asyncio

import grpc
import msgspec
import pytest

from recserve_client import AsyncClient, Client, ClientOptions, Page, RecommendRequest, SlateOptions, item
from recserve_client.calls import recommend
from recserve_client.contract import Behaviour, Slate
from recserve_client.contract.filters import Range
from recserve_client.errors import ExpiredCursor, InvalidRequest, RecserveError
from support.inference_server import InferenceServer

OPTIONS = ClientOptions(pause_s=0.001, seed=1, deadline_s=30)


def test_where_slate_and_page_are_sent(server: InferenceServer, address: str) -> None:
    options = SlateOptions(diversify=0.5)
    with Client(address, OPTIONS) as client:
        client.recommend([item("a")], where="year >= 1990", slate=options, count=True, page=Page(5))
    got = msgspec.json.decode(server.requests[-1].raw_input_contents[0][4:], type=RecommendRequest)
    assert (got.where, got.slate, got.count, got.page) == (Range("year", ge=1990), options, True, Page(5))
    with Client(address, OPTIONS) as client:
        client.similar("a", k=3, where=Range("year", ge=1990))
    assert msgspec.json.decode(server.requests[-1].raw_input_contents[0][4:]) == {
        "history": [{"item": "a", "weight": 1.0}], "k": 3, "explain": False, "accept": "msgpack",
        "where": {"op": "range", "attribute": "year", "ge": 1990},
    }  # fmt: skip
    with pytest.raises(InvalidRequest, match="a value is expected"):
        recommend([item("a")], where="year >=")


def test_many_requests_have_slates_or_errors_in_order(server: InferenceServer, address: str) -> None:
    requests = [RecommendRequest([Behaviour(item=f"i{number}")]) for number in range(100)]
    # It cannot be packed, and fails alone.
    requests[7] = RecommendRequest([Behaviour(text="\ud800")])

    async def later() -> list[Slate | RecserveError]:
        async with AsyncClient(address, OPTIONS) as client:
            assert await client.recommend_many([]) == []
            return await client.recommend_many(requests)

    with Client(address, OPTIONS) as client:
        assert client.recommend_many([]) == []
        now = client.recommend_many(requests)
    for outcomes in (now, asyncio.run(later())):
        assert [type(outcome).__name__ for outcome in outcomes[6:9]] == ["Slate", "InvalidRequest", "Slate"]
        assert len(outcomes) == 100


def test_an_expired_cursor_is_an_error_of_its_own(server: InferenceServer, address: str) -> None:
    server.refusals = [(grpc.StatusCode.INVALID_ARGUMENT, "expired_cursor: the cursor 'x' is too old")]
    with Client(address, OPTIONS) as client, pytest.raises(ExpiredCursor, match="too old"):
        client.recommend([item("a")], page=Page(5, "x"))
