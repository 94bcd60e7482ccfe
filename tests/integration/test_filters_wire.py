"""Filters, slate options and pages over a real Triton: bad input is refused by type, and the server lives on."""

from __future__ import annotations

from typing import Any

import pytest

from recserve_client import Client, NewItem, Page, RecommendRequest, SlateOptions, item
from recserve_client.contract import Behaviour, Slate
from recserve_client.contract.slate_options import Pin
from recserve_client.errors import ExpiredCursor, InvalidRequest
from support.served import Served
from support.wire import Wire

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def known(films: list[str]) -> str:
    return films[0]


@pytest.fixture
def raw(live: Served) -> Wire:
    return Wire(live.grpc)


def nested(depth: int) -> bytes:
    return b'{"op":"not","of":' * depth + b'{"op":"exists","attribute":"title"}' + b"}" * depth


def body(known: str, where: bytes) -> bytes:
    return b'{"history":[{"item":"%s"}],"where":%s}' % (known.encode(), where)


def test_bad_filters_are_refused_and_the_server_lives(raw: Wire, live: Served, known: str) -> None:
    process = live.stub("recommend").pid
    many = b'{"op":"in","attribute":"title","values":[%s]}' % b",".join(b'"v%d"' % n for n in range(100_000))
    cases = [
        (nested(40), "too_large", "limits.filter.depth"),
        (nested(1000), "invalid_json", "limits.filter.depth"),
        (nested(50_000), "invalid_json", "limits.filter.depth"),
        (many, "too_large", "limits.filter.values"),
        (b'{"op":"exists","attribute":"titel"}', "unknown_field", "did you mean 'title'?"),
        (b'{"op":"eq","attribute":"title","value":5}', "invalid_request", "cannot be compared with 5"),
        (b'{"op":"within","attribute":"title","lat":1,"lon":2,"radius_m":3}', "invalid_request", "within"),
        (b'{"op":"eq","attribute":"title","value":null}', "invalid_request", "$.where.value"),
        (b'{"op":"like","attribute":"title","value":"x"}', "invalid_request", "like"),
        (b'{"op":"and","of":[]}', "invalid_request", "$.where.of"),
        (b'{"op":"range","attribute":"title"}', "invalid_request", "no bound"),
        (b"[]", "invalid_request", "$.where"),
    ]
    for where, kind, said in cases:
        status, message = raw.refused("recommend", body(known, where))
        assert status == "INVALID_ARGUMENT"
        assert message.startswith(f"{kind}: "), message
        assert said in message, message
        assert len(message) < 1000
        assert len(raw.ask("recommend", body(known, b'{"op":"exists","attribute":"title"}'))["items"]) == 10
    assert live.stub("recommend").pid == process


def test_bad_slates_and_cursors(raw: Wire, client: Client, known: str) -> None:
    ask: dict[str, Any] = {"history": [{"item": known}]}
    for slate, said in (
        ({"diversify": 2}, "$.slate.diversify"),
        ({"groups": [{"attribute": "titel", "at_most": 1}]}, "did you mean 'title'?"),
        ({"boosts": [{"by": "popularity", "attribute": "title", "weight": 1}]}, "a boost needs a number"),
        ({"pins": [{"item": known, "place": 11}]}, "place 11"),
    ):
        assert said in raw.refused("recommend", {**ask, "slate": slate})[1]
    with pytest.raises(ExpiredCursor):
        client.recommend([item(known)], page=Page(5, "A" * 48))


def test_a_filter_over_changed_items_is_right_at_once(client: Client, known: str) -> None:
    new = [
        NewItem(f"batch{n}", {"title": "a brand new film"}, attributes={"batch": n % 2, "made": 2030 + n})
        for n in range(6)
    ]
    client.items.upsert(new)
    slate = client.recommend([item(known)], where="batch = 1 and made >= 2030", count=True, fields=["made"])
    assert sorted(found.id for found in slate.items) == ["batch1", "batch3", "batch5"]
    assert slate.count == 3
    client.items.upsert([NewItem("batch1", {"title": "a brand new film"}, attributes={"batch": 0, "made": 2031})])
    client.items.delete(["batch3"])
    assert [found.id for found in client.recommend([item(known)], where="batch = 1").items] == ["batch5"]
    assert [found.id for found in client.similar("batch5", where="exists(made)", k=2).items] != []


def test_pages_and_many_requests(client: Client, known: str) -> None:
    whole = client.recommend([item(known)], k=25)
    pages = [client.recommend([item(known)], k=25, page=Page(10))]
    while isinstance(pages[-1].cursor, str):
        pages.append(client.recommend([item(known)], k=25, page=Page(10, pages[-1].cursor)))
    assert [found.id for page in pages for found in page.items] == [found.id for found in whole.items]
    pinned = SlateOptions(pins=[Pin(whole.items[20].id, 1, "top")], diversify=0.2)
    requests = [RecommendRequest([Behaviour(item=known)], k=n, slate=pinned) for n in range(1, 40)]
    requests[5] = RecommendRequest([])
    outcomes = client.recommend_many(requests)
    assert isinstance(outcomes[5], InvalidRequest)
    for number, outcome in enumerate(outcomes):
        if number != 5:
            assert isinstance(outcome, Slate)
            assert len(outcome.items) == number + 1
            assert outcome.items[0].rules == ["top"]
