"""NDJSON over a client without a server: a line for each line, in their order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from recserve_client.contract import InteractionResult, InteractionsRecorded, ItemResult, ItemsChanged
from recserve_client.errors import from_status
from recserve_client.http import items, streams
from support.fake_client import FakeClient, lines
from support.inference_server import SLATE

HEADERS = {"content-type": "application/x-ndjson"}


def created(*ids: str) -> ItemsChanged:
    return ItemsChanged(5, [ItemResult(id, "created") for id in ids])


def sent(http: TestClient, path: str, *parts: bytes, **headers: str) -> Any:
    def body() -> Iterator[bytes]:
        yield from parts

    return http.post(path, content=body(), headers={**HEADERS, **headers})


def test_items_have_a_result_for_each_line(http: TestClient, fake: FakeClient) -> None:
    # The last line has no end, so it comes with the end of the body.
    fake.answers["items"] = [created("a"), created("c")]
    answer = sent(http, "/v1/items", b'{"id":"a"}\n\nnot json\n', b'{"id"', b':"c"}')
    assert answer.headers["content-type"] == "application/x-ndjson"
    first, second, third = lines(answer.content)
    assert (first, third) == (
        {"id": "a", "status": "created", "revision": 5},
        {"id": "c", "status": "created", "revision": 5},
    )
    assert (second["status"], second["error"][:20]) == ("refused", "the line is not JSON")


def test_many_lines_are_several_changes(http: TestClient, fake: FakeClient) -> None:
    fake.answers["items"] = [created(*map(str, range(500))), created(*map(str, range(500, 700)))]
    body = b"".join(b'{"id":"%d"}\n' % number for number in range(700))
    answer = sent(http, "/v1/items", body)
    assert [line["id"] for line in lines(answer.content)] == [str(number) for number in range(700)]
    assert [len(asked["items"]) for _, asked in fake.asked] == [500, 200]


def test_deletions_are_a_stream_too(http: TestClient, fake: FakeClient) -> None:
    fake.answers["items"] = ItemsChanged(6, [ItemResult("a", "absent")])
    assert lines(sent(http, "/v1/items:delete", b'{"id":"a"}\n').content) == [
        {"id": "a", "status": "absent", "revision": 6}
    ]
    assert fake.asked[0][1]["op"] == "delete"


def test_interactions_have_a_result_for_each_line(http: TestClient, fake: FakeClient) -> None:
    fake.answers["interactions"] = InteractionsRecorded([InteractionResult("recorded", "e")])
    found = lines(sent(http, "/v1/interactions", b'{"user_id":"ann"}\n\xff\n').content)
    malformed = {"status": "refused", "reason": "malformed", "detail": "the line is not JSON"}
    assert found == [{"status": "recorded", "event_id": "e"}, malformed]


def test_requests_are_answered_each_for_itself(http: TestClient, fake: FakeClient) -> None:
    fake.answers["recommend"] = [SLATE, from_status("NOT_FOUND", "unknown_item: no 'x'"), SLATE]
    first, second, third = lines(sent(http, "/v1/recommend", b'{"k":1}\n{"k":2}\n{"k":3}\n').content)
    assert first["recommendation_id"] == third["recommendation_id"] == SLATE.recommendation_id
    assert (second["kind"], second["status"]) == ("unknown_item", 404)


def test_a_stream_whose_first_lines_fail_is_a_problem(http: TestClient, fake: FakeClient) -> None:
    fake.answers["items"] = from_status("UNAVAILABLE", "unavailable: the store is away")
    answer = sent(http, "/v1/items", b'{"id":"a"}\n')
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert (answer.json()["kind"], answer.json()["line"]) == ("unavailable", 1)


@pytest.mark.parametrize("error", [from_status("UNAVAILABLE", "unavailable: away"), ZeroDivisionError("secret")])
def test_a_stream_that_fails_later_ends_with_a_problem(
    http: TestClient, fake: FakeClient, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(items, "_AT_A_TIME", 1)
    fake.answers["items"] = [created("a"), error]
    answer = sent(http, "/v1/items", b'{"id":"a"}\n\n', b'{"id":"b"}\n', b'{"id":"c"}\n')
    assert answer.status_code == 200
    first, last = lines(answer.content)
    assert first["id"] == "a"
    kind = "internal" if isinstance(error, ZeroDivisionError) else "unavailable"
    assert (last["kind"], last["line"], last["request_id"]) == (kind, 2, answer.headers["x-request-id"])
    assert "secret" not in answer.text


def test_a_line_has_a_bound(http: TestClient, fake: FakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_LINE_BYTES", 20)
    fake.answers["items"] = created("a")
    for parts in ((b"x" * 15, b"x" * 15), (b"x" * 30 + b"\n",)):
        answer = sent(http, "/v1/items", *parts)
        assert (answer.status_code, answer.json()["kind"]) == (413, "too_large")
    first, last = lines(sent(http, "/v1/items", b'{"id":"a"}\n', b"x" * 30).content)
    assert (first["id"], last["kind"], last["line"]) == ("a", "too_large", 2)


def test_a_stream_takes_no_key(http: TestClient, fake: FakeClient) -> None:
    answer = sent(http, "/v1/items", b'{"id":"a"}\n', **{"idempotency-key": "k"})
    assert (answer.status_code, answer.json()["kind"]) == (400, "invalid_request")
    assert fake.asked == []


def test_an_empty_stream_has_no_lines(http: TestClient, fake: FakeClient) -> None:
    answer = sent(http, "/v1/items", b"\n \n")
    assert (answer.status_code, answer.content) == (200, b"")
    assert json.dumps(fake.asked) == "[]"
