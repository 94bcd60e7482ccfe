"""The HTTP API over a client without a server: what is asked, what is answered, what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from starlette.testclient import TestClient

from recserve_client.contract import (
    CatalogueItem,
    ItemResult,
    ItemsChanged,
    ItemsFound,
    ServedStrategies,
    ServedStrategy,
    UserHistory,
    pack,
)
from recserve_client.errors import from_status
from recserve_client.http.app import App, AppOptions
from support.fake_client import FakeClient
from support.http_api import refused
from support.inference_server import SLATE

ITEM = CatalogueItem("a/b", {"title": "A"}, {"year": 1999}, True, 7)


def changed(status: Any, revision: int = 9, error: str = "") -> ItemsChanged:
    return ItemsChanged(revision, [ItemResult("a/b", status, error)])


# --- what passes ---


def test_a_request_and_its_slate_pass_as_they_come(http: TestClient, fake: FakeClient) -> None:
    body = b'{"k" : 3,\n "history":[{"item":"a"}] }'
    answer = http.post("/v1/recommend", content=body, headers={"content-type": "application/json; charset=utf-8"})
    assert (answer.status_code, answer.content) == (200, pack(SLATE))
    assert fake.raw == [body]
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_span_of_the_header_goes_with_the_request(http: TestClient, fake: FakeClient) -> None:
    span = f"00-{'1' * 32}-{'2' * 16}-01"
    http.post("/v1/recommend", json={"k": 3}, headers={"traceparent": span})
    http.get("/v1/users/ann/recommendations", headers={"traceparent": span})
    http.post("/v1/recommend", json={"k": 3, "traceparent": ""}, headers={"traceparent": span})
    http.post("/v1/recommend", json={"k": 3}, headers={"traceparent": "99-odd"})
    assert [request.get("traceparent") for _, request in fake.asked] == [span, span, "", None]
    http.post("/v1/recommend", content=b"[", headers={"traceparent": span, "content-type": "application/json"})
    assert fake.raw[-1] == b"["


def test_texts_go_through_the_ensemble(http: TestClient, fake: FakeClient) -> None:
    http.post("/v1/recommend/text", json={"history": [{"text": "a"}]})
    assert fake.asked == [("recommend_text", {"history": [{"text": "a"}]})]


def test_parameters_of_a_query_are_a_request(http: TestClient, fake: FakeClient) -> None:
    query = (
        "k=3&fields=title&fields=year&where=year%20%3E%3D%201990&page_size=2&explain=false&exclude_seen=false&stated=x"
    )
    assert http.get(f"/v1/users/a%2Fb%20%C3%A9/recommendations?{query}").status_code == 200
    assert fake.asked == [
        (
            "recommend",
            {
                "k": 3,
                "fields": ["title", "year"],
                "where": {"op": "range", "attribute": "year", "ge": 1990},
                "page": {"size": 2},
                "explain": False,
                "exclude_seen": False,
                "stated": ["x"],
                "user_id": "a/b é",
            },
        )
    ]


def test_similar_items_are_asked_without_explanations(http: TestClient, fake: FakeClient) -> None:
    http.get("/v1/items/a%2Fb/similar")
    assert fake.asked == [("recommend", {"history": [{"item": "a/b"}], "explain": False})]


def test_strategies_are_those_of_the_server(http: TestClient, fake: FakeClient) -> None:
    served = ServedStrategies("auto", "popular", [ServedStrategy("text", [])])
    fake.answers["strategies"] = pack(served).decode()
    assert msgspec.json.decode(http.get("/v1/strategies").content, type=ServedStrategies) == served


def test_ready_is_a_real_recommendation(http: TestClient, fake: FakeClient) -> None:
    assert http.get("/v1/health/ready").json() == {"status": "ready"}
    assert fake.asked[0][0] == "recommend_text"
    fake.answers["recommend_text"] = from_status("INTERNAL", "Stub process is not healthy")
    answer = http.get("/v1/health/ready")
    refused(answer, 503, "unavailable")
    assert answer.headers["retry-after"] == "1"
    assert http.get("/v1/health/live").json() == {"status": "live"}


def test_changes_have_longer_deadlines(http: TestClient, fake: FakeClient) -> None:
    fake.answers["items"] = changed("created")
    http.post("/v1/items", json={"items": [{"id": "a", "texts": {}}]})
    http.post("/v1/recommend", json={})
    assert fake.deadlines == [60.0, None]


# --- items ---


@pytest.mark.parametrize(("key", "sent"), [('"k-1"', "k-1"), ("k-1", "k-1"), (None, "")])
def test_an_idempotency_key_is_the_request_id(http: TestClient, fake: FakeClient, key: str | None, sent: str) -> None:
    fake.answers["items"] = changed("created")
    headers = {} if key is None else {"idempotency-key": key}
    http.post("/v1/items", json={"items": [{"id": "a/b", "texts": {"title": "A"}, "odd": 1}]}, headers=headers)
    items = [{"id": "a/b", "texts": {"title": "A"}, "odd": 1}]
    assert fake.asked == [("items", {"op": "upsert", "items": items, "request_id": sent})]


@pytest.mark.parametrize(
    ("headers", "sent"),
    [({}, {}), ({"if-match": '"7"'}, {"if_revision": 7}), ({"if-none-match": "*"}, {"if_revision": 0})],
)
def test_preconditions_are_revisions(
    http: TestClient, fake: FakeClient, headers: dict[str, str], sent: dict[str, int]
) -> None:
    fake.answers["items"] = [changed("created"), changed("deleted")]
    answer = http.put("/v1/items/a%2Fb", json={"texts": {"title": "A"}}, headers=headers)
    assert (answer.status_code, answer.headers["etag"]) == (201, '"9"')
    assert answer.json() == {"id": "a/b", "status": "created", "revision": 9}
    assert http.delete("/v1/items/a%2Fb", headers=headers).json()["status"] == "deleted"
    of_put, of_delete = (asked["items"][0] for _, asked in fake.asked)
    assert of_put == {"id": "a/b", "texts": {"title": "A"}, **sent}
    assert of_delete == {"id": "a/b", **sent}


def test_vectors_of_an_item_are_sent_with_it(http: TestClient, fake: FakeClient) -> None:
    fake.answers["items"] = changed("created")
    content = {"texts": {"title": "A"}, "vectors": {"images": [0.5, 1.0]}}
    assert http.put("/v1/items/a", json=content).status_code == 201
    assert fake.asked == [("items", {"op": "upsert", "items": [{"id": "a", **content}], "request_id": ""})]


def test_any_revision_is_the_one_that_is_there(http: TestClient, fake: FakeClient) -> None:
    fake.answers["items"] = [ItemsFound(9, [ITEM]), changed("updated"), ItemsFound(9, [], ["a/b"])]
    for status in (200, 412):
        answer = http.put("/v1/items/a%2Fb", json={"texts": {}}, headers={"if-match": "*"})
        assert answer.status_code == status
    assert fake.asked[1][1]["items"][0]["if_revision"] == ITEM.revision


@pytest.mark.parametrize(
    ("result", "status", "kind"),
    [("conflict", 412, "precondition_failed"), ("refused", 400, "invalid_request")],
)
def test_one_item_that_is_not_changed_is_a_problem(
    http: TestClient, fake: FakeClient, result: str, status: int, kind: str
) -> None:
    fake.answers["items"] = changed(result, error="why")
    refused(http.put("/v1/items/a%2Fb", json={"texts": {}}), status, kind)


def test_an_unchanged_item_tells_no_etag(http: TestClient, fake: FakeClient) -> None:
    fake.answers["items"] = changed("unchanged")
    answer = http.put("/v1/items/a%2Fb", json={"texts": {}})
    assert answer.status_code == 200
    assert "etag" not in answer.headers


def test_an_absent_item_is_not_found(http: TestClient, fake: FakeClient) -> None:
    fake.answers["items"] = changed("absent")
    refused(http.delete("/v1/items/a%2Fb"), 404, "unknown_item")
    fake.answers["items"] = ItemsFound(9, [], ["a/b"])
    refused(http.get("/v1/items/a%2Fb"), 404, "unknown_item")


@pytest.mark.parametrize(
    "headers",
    [
        {"if-match": "7"}, {"if-match": 'W/"7"'}, {"if-match": '"0"'}, {"if-match": '"x"'}, {"if-match": '"1", "2"'},
    ],
)  # fmt: skip
def test_what_is_no_etag_matches_nothing(http: TestClient, fake: FakeClient, headers: dict[str, str]) -> None:
    refused(http.put("/v1/items/a", json={"texts": {}}, headers=headers), 412, "precondition_failed")
    assert fake.asked == []


def test_both_preconditions_are_refused(http: TestClient) -> None:
    headers = {"if-match": '"7"', "if-none-match": "*"}
    refused(http.put("/v1/items/a", json={"texts": {}}, headers=headers), 400, "invalid_request")


@pytest.mark.parametrize(
    ("known", "status"), [('"7"', 304), ('W/"7"', 304), ('"6", "7"', 304), ("*", 304), ('"6"', 200)]
)
def test_a_known_item_is_not_sent_again(http: TestClient, fake: FakeClient, known: str, status: int) -> None:
    fake.answers["items"] = ItemsFound(9, [ITEM])
    answer = http.get("/v1/items/a%2Fb", headers={"if-none-match": known})
    assert (answer.status_code, answer.headers["etag"]) == (status, '"7"')
    assert answer.content == (b"" if status == 304 else msgspec.json.encode(ITEM))


# --- the edge ---


@pytest.mark.parametrize(("given", "is_kept"), [("abc-1", True), ("a b", False), ("x" * 129, False), (None, False)])
def test_request_ids(http: TestClient, given: str | None, is_kept: bool) -> None:
    answer = http.get("/v1/health/live", headers={} if given is None else {"x-request-id": given})
    found = answer.headers["x-request-id"]
    assert (found == given) == is_kept
    assert found


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8080", ""])
def test_a_local_server_answers_to_local_names_alone(http: TestClient, host: str) -> None:
    refused(http.get("/v1/health/live", headers={"host": host}), 421, "wrong_host")


def test_an_open_server_answers_to_any_name(fake: FakeClient) -> None:
    with TestClient(App(fake.opened, AppOptions(local=False)), "http://recommend.example") as http:
        assert http.get("/v1/health/live").status_code == 200


def test_pages_of_other_origins_may_call_where_allowed(http: TestClient, fake: FakeClient) -> None:
    ask = {"origin": "https://shop.example", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in http.options("/v1/recommend", headers=ask).headers
    options = AppOptions(cors=["https://shop.example"])
    with TestClient(App(fake.opened, options), "http://localhost:8080") as allowed:
        answer = allowed.options("/v1/recommend", headers=ask)
        assert answer.headers["access-control-allow-origin"] == "https://shop.example"
        problem = allowed.post("/v1/recommend", headers={"origin": "https://shop.example"})
        assert problem.headers["access-control-allow-origin"] == "https://shop.example"
        other = allowed.get("/v1/health/live", headers={"origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_large_answers_are_compressed(http: TestClient, fake: FakeClient, encoding: str) -> None:
    fake.answers["items"] = ItemsFound(1, [ITEM] * 100)
    answer = http.get("/v1/items", headers={"accept-encoding": encoding})
    assert answer.headers["content-encoding"] == encoding
    if encoding == "gzip":
        assert answer.json()["items"][99]["id"] == "a/b"


def test_too_many_requests_at_a_time_are_put_off(fake: FakeClient) -> None:
    with TestClient(App(fake.opened, AppOptions(most_requests=0)), "http://localhost") as http:
        answer = http.get("/v1/strategies")
        refused(answer, 503, "unavailable")
        assert answer.headers["retry-after"] == "1"
        assert http.get("/v1/health/live").status_code == 200


def test_a_head_is_a_get_for_its_headers(http: TestClient, fake: FakeClient) -> None:
    fake.answers["interactions"] = UserHistory("r", 0, {}, [])
    assert http.head("/v1/users/a/history").status_code == 200
