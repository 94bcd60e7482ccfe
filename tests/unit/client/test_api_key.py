"""The API key of a client: how it is sent, and that it is not told."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import grpc
import pytest

from recserve_client import AsyncClient, Client, item
from recserve_client.api_key import check_key, key_from_environment
from recserve_client.calls import recommend
from recserve_client.errors import PermissionDenied, RecserveError, Unauthenticated, from_status
from support.inference_server import InferenceServer

KEY = "rsk_" + "k" * 43


def test_every_call_carries_the_key(server: InferenceServer, address: str) -> None:
    with Client(address, key=KEY) as client:
        client.recommend([item("a")])
        client.server_info()
        client.run(replace(recommend([item("a")]), key="another"))
    with Client(address) as client:
        client.recommend([item("a")])

    async def ask() -> None:
        async with AsyncClient(address, key=KEY) as client:
            await client.recommend([item("a")])

    asyncio.run(ask())
    assert server.keys == [f"Bearer {KEY}", f"Bearer {KEY}", "Bearer another", "", f"Bearer {KEY}"]


@pytest.mark.parametrize("wrong", ["two words", "line\nbreak", "k" * 257, "ä", "nul\0"])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_what_is_no_key_is_refused_without_being_told(wrong: str, kind: type[Client] | type[AsyncClient]) -> None:
    with pytest.raises(ValueError, match=f"of {len(wrong)} characters") as refused:
        kind("127.0.0.1:1", key=wrong)
    assert wrong not in str(refused.value)


def test_a_call_does_not_show_its_key() -> None:
    assert KEY not in repr(replace(recommend([item("a")]), key=KEY))


def test_the_environment_has_the_key_of_commands() -> None:
    assert key_from_environment({"RECSERVE_KEY": KEY}) == KEY
    assert key_from_environment({}) == ""
    assert check_key("") == ""


@pytest.mark.parametrize(
    ("status", "details", "expected"),
    [
        ("UNAUTHENTICATED", "unauthenticated: why", Unauthenticated),
        ("UNAUTHENTICATED", "said by another proxy", Unauthenticated),
        ("PERMISSION_DENIED", "permission_denied: why", PermissionDenied),
        ("INVALID_ARGUMENT", "unauthenticated: why", Unauthenticated),
        ("INVALID_ARGUMENT", "in ensemble 'recommend_text', permission_denied: why", PermissionDenied),
    ],
)
def test_refusals_are_errors_of_their_own(status: str, details: str, expected: type[RecserveError]) -> None:
    assert type(from_status(status, details)) is expected


def test_a_refusal_is_not_tried_again(server: InferenceServer, address: str) -> None:
    server.refusals = [(grpc.StatusCode.INVALID_ARGUMENT, "unauthenticated: why")] * 3
    with Client(address) as client:
        with pytest.raises(Unauthenticated):
            client.recommend([item("a")])
        with pytest.raises(Unauthenticated):
            client.ready()
    assert len(server.requests) == 2
