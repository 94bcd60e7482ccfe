"""Requests that are held for their walks: how many, how large, until when."""

from __future__ import annotations

import msgspec
import pytest

from recserve_client.contract import ErrorKind, RecommendRequest, RequestError, Walk
from recserve_server_ext.config.server import Limits
from recserve_server_ext.recommend.held_requests import MOST, MOST_BYTES, HeldRequests, is_replay


def asking(recommendation: str) -> RecommendRequest:
    return RecommendRequest(walk=Walk(["a"], recommendation), accept="msgpack")


@pytest.fixture
def held() -> HeldRequests:
    return HeldRequests(Limits())


def is_held(held: HeldRequests, recommendation: str) -> bool:
    try:
        held.again(asking(recommendation))
    except RequestError as error:
        return error.kind is not ErrorKind.INVALID_REQUEST or recommendation not in error.text
    return True


def test_a_request_comes_back_with_the_walk_that_is_asked(held: HeldRequests) -> None:
    held.hold("r1", b'{"user_id": "ann", "k": 3, "walk": {"items": ["b"]}}')
    found = held.again(asking("r1"))
    assert (found.user_id, found.k, found.walk, found.accept) == ("ann", 3, Walk(["a"], "r1"), "msgpack")
    assert not found.explain
    assert is_replay(found)
    assert not is_replay(RecommendRequest(walk=Walk(["a"])))


def test_the_oldest_go_and_large_ones_are_not_held(held: HeldRequests) -> None:
    for number in range(MOST + 1):
        held.hold(f"r{number}", b'{"user_id": "ann"}')
    held.hold("large", b'{"user_id": "ann"}' + b" " * MOST_BYTES)
    assert not is_held(held, "r0")
    assert is_held(held, "r1")
    assert is_held(held, f"r{MOST}")
    assert not is_held(held, "large")


def test_an_erasure_forgets_all(held: HeldRequests) -> None:
    held.hold("r1", b'{"user_id": "ann"}')
    held.forget_erased((0, 0))
    assert is_held(held, "r1")
    held.forget_erased((1, 1))
    assert not is_held(held, "r1")


@pytest.mark.parametrize("more", [{"user_id": "ann"}, {"history": [{"item": "a"}]}])
def test_only_one_request_can_be_asked(held: HeldRequests, more: dict[str, object]) -> None:
    held.hold("r1", b'{"user_id": "ann"}')
    asked = msgspec.convert({"walk": {"recommendation_id": "r1"}, **more}, RecommendRequest)
    with pytest.raises(RequestError, match="takes the place of history and user_id"):
        held.again(asked)
