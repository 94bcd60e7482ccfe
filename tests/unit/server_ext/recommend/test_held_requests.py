"""Requests that are held for their walks: how many, how large, until when."""

from __future__ import annotations

import msgspec
import pytest

from recserve_client.contract import Behaviour, ErrorKind, RecommendRequest, RequestError, Walk
from recserve_server_ext.recommend.held_requests import MOST, MOST_BYTES, Held, HeldRequests, is_replay


def asking(recommendation: str) -> RecommendRequest:
    return RecommendRequest(walk=Walk(["a"], recommendation), accept="msgpack")


REQUEST = RecommendRequest(user_id="ann", k=3, walk=Walk(["b"]))


@pytest.fixture
def held() -> HeldRequests:
    return HeldRequests()


def hold(held: HeldRequests, recommendation: str, size_bytes: int = 50) -> None:
    held.hold(recommendation, Held(REQUEST, "pseudonym of ann", "ring"), size_bytes)


def is_held(held: HeldRequests, recommendation: str, keys: str = "ring") -> bool:
    try:
        held.again(asking(recommendation), keys)
    except RequestError as error:
        return error.kind is not ErrorKind.INVALID_REQUEST or recommendation not in error.text
    return True


def test_a_request_comes_back_with_the_walk_that_is_asked_and_without_its_user(held: HeldRequests) -> None:
    hold(held, "r1")
    request, pseudonym, _ = held.again(asking("r1"), "ring")
    assert (request.user_id, pseudonym) == ("somebody", "pseudonym of ann")
    assert (request.k, request.walk, request.accept, request.explain) == (3, Walk(["a"], "r1"), "msgpack", False)
    assert is_replay(request)
    assert not is_replay(REQUEST)
    held.hold("r2", Held(RecommendRequest([Behaviour(item="a")]), None, ""), 50)
    assert held.again(asking("r2"), "another ring").request.user_id is None


def test_the_oldest_go_and_large_ones_are_not_held(held: HeldRequests) -> None:
    for number in range(MOST + 1):
        hold(held, f"r{number}")
    hold(held, "large", MOST_BYTES + 1)
    assert not is_held(held, "r0")
    assert is_held(held, "r1")
    assert is_held(held, f"r{MOST}")
    assert not is_held(held, "large")


def test_an_erasure_forgets_all_and_a_rotation_the_users(held: HeldRequests) -> None:
    hold(held, "r1")
    held.forget_erased((0, 0))
    assert is_held(held, "r1")
    assert not is_held(held, "r1", "new ring")
    held.forget_erased((1, 1))
    assert not is_held(held, "r1")


@pytest.mark.parametrize("more", [{"user_id": "ann"}, {"history": [{"item": "a"}]}])
def test_only_one_request_can_be_asked(held: HeldRequests, more: dict[str, object]) -> None:
    hold(held, "r1")
    asked = msgspec.convert({"walk": {"recommendation_id": "r1"}, **more}, RecommendRequest)
    with pytest.raises(RequestError, match="takes the place of history and user_id"):
        held.again(asked, "ring")
