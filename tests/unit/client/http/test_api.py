"""The HTTP API over a client without a server: what is asked, what is answered, what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from starlette.testclient import TestClient

from recserve_client.contract import (
    MEANING_OF,
    CatalogueItem,
    ErrorKind,
    ItemResult,
    ItemsChanged,
    ItemsFound,
    ServedStrategies,
    ServedStrategy,
    UserHistory,
    pack,
)
from recserve_client.errors import from_status
from recserve_client.http import exchange
from recserve_client.http.app import App, AppOptions
from recserve_client.http.problems import HTTP_STATUS_OF, HttpKind
from support.fake_client import FakeClient
from support.inference_server import SLATE

ITEM = CatalogueItem("a/b", {"title": "A"}, {"year": 1999}, True, 7)


def changed(status: Any, revision: int = 9, error: str = "") -> ItemsChanged:
    return ItemsChanged(revision, [ItemResult("a/b", status, error)])


def refused(answer: Any, status: int, kind: str) -> Any:
    """The problem document of an answer, whose status and kind are checked."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["kind"]) == (status, status, kind), problem
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["type"] == f"urn:problem-type:recserve:{kind}"
    assert "Traceback" not in answer.text
    return problem


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


# --- refusals ---


def test_every_kind_has_a_status() -> None:
    assert set(HTTP_STATUS_OF) == {*MEANING_OF, *HttpKind}


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_a_refusal_keeps_its_kind(http: TestClient, fake: FakeClient, kind: ErrorKind) -> None:
    fake.answers["recommend"] = from_status("INVALID_ARGUMENT", f"{kind}: why")
    answer = http.post("/v1/recommend", json={})
    assert refused(answer, HTTP_STATUS_OF[kind], kind)["detail"] == "why"
    assert ("retry-after" in answer.headers) == (HTTP_STATUS_OF[kind] == 503)


KEY = "rsk_" + "k" * 43


@pytest.mark.parametrize(
    ("headers", "sent"),
    [
        ({}, ""),
        ({"authorization": f"Bearer {KEY}"}, KEY),
        ({"authorization": f"bearer  {KEY}"}, KEY),
        ({"x-api-key": KEY}, KEY),
        ({"x-api-key": KEY, "authorization": f"Bearer {KEY}"}, KEY),
        ({"authorization": "Basic YTpi"}, ""),
    ],
)
def test_the_key_of_the_caller_is_passed_on(
    http: TestClient, fake: FakeClient, headers: dict[str, str], sent: str
) -> None:
    fake.answers["strategies"] = '{"default":"auto","fallback":"popular","strategies":[]}'
    assert http.post("/v1/recommend", json={}, headers=headers).status_code == 200
    for path in ("/v1/strategies", "/v1/health/ready", "/v1/items/a"):
        http.get(path, headers=headers)
    assert set(fake.keys) == {sent}
    assert len(fake.keys) == 5  # the key is checked before Triton tells the strategies


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer two words"},
        {"x-api-key": "k" * 257},
        {"x-api-key": KEY, "authorization": f"Bearer {KEY}k"},
    ],
)
def test_what_is_no_key_is_refused_without_being_told(
    http: TestClient, fake: FakeClient, headers: dict[str, str]
) -> None:
    answer = http.post("/v1/recommend", json={}, headers=headers)
    assert refused(answer, 401, "unauthenticated")["detail"] == "a valid key is needed"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert fake.asked == []


@pytest.mark.parametrize(("status", "code"), [("unauthenticated", 401), ("permission_denied", 403)])
def test_without_the_right_key_nothing_is_told(http: TestClient, fake: FakeClient, status: str, code: int) -> None:
    error = from_status("INVALID_ARGUMENT", f"{status}: why")
    fake.answers = dict.fromkeys([*fake.answers, "interactions"], error)
    fake.answers["strategies"] = '{"default":"auto","fallback":"popular","strategies":[]}'
    for path in ("/v1/strategies", "/v1/health/ready", "/v1/items/a", "/v1/users/ann", "/v1/items"):
        refused(http.get(path), code, status)
    for path in ("/v1/recommend", "/v1/interactions", "/v1/items"):
        lines = http.post(path, content=b'{"id":"a"}\n', headers={"content-type": "application/x-ndjson"})
        refused(lines, code, status)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        ("UNAUTHENTICATED", 401, "unauthenticated"),
        ("PERMISSION_DENIED", 403, "permission_denied"),
        ("UNAVAILABLE", 503, "unavailable"),
        ("NOT_FOUND", 503, "unavailable"),
        ("CANCELLED", 503, "unavailable"),
        ("DEADLINE_EXCEEDED", 504, "deadline_exceeded"),
        ("RESOURCE_EXHAUSTED", 413, "too_large"),
        ("UNIMPLEMENTED", 501, "unsupported"),
        ("INVALID_ARGUMENT", 400, "invalid_request"),
    ],
)
def test_a_status_without_a_kind_has_one(http: TestClient, fake: FakeClient, status: str, code: int, kind: str) -> None:
    fake.answers["recommend"] = from_status(status, "Triton says why")
    detail = refused(http.post("/v1/recommend", json={}), code, kind)["detail"]
    # What cannot be reached is not named: it may be an address of another machine.
    assert (detail == "Triton says why") == (kind != "unavailable")


def test_a_fault_of_triton_is_not_quoted(http: TestClient, fake: FakeClient) -> None:
    fake.answers["recommend"] = from_status("INTERNAL", "Stub process '/srv/x' is not healthy")
    assert "/srv" not in refused(http.post("/v1/recommend", json={}), 500, "internal")["detail"]


def test_an_unexpected_fault_is_logged_and_not_told(
    http: TestClient, fake: FakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    fake.answers["recommend"] = ZeroDivisionError("secret")
    answer = http.post("/v1/recommend", json={}, headers={"x-request-id": "r-1"})
    assert "secret" not in refused(answer, 500, "internal")["detail"]
    assert "r-1" in caplog.text
    assert "ZeroDivisionError: secret" in caplog.text


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/", 404, "not_found"),
        ("GET", "/v1/items/", 404, "not_found"),
        ("GET", "/v1/users//history", 404, "not_found"),
        ("GET", "/v1/%69tems", 404, "not_found"),
        ("GET", "/v1/items/%ff", 400, "invalid_request"),
        ("GET", "/v1/users/%ed%a0%80/history", 400, "invalid_request"),
        ("GET", "/v1/users/a/history?limit=%ff", 400, "invalid_request"),
        ("GET", "/v1/users/a/history?limit=1&limit=2", 400, "invalid_request"),
        ("GET", "/v1/users/a/history?limit=x", 400, "invalid_request"),
        ("GET", "/v1/users/a/history?odd=1", 400, "invalid_request"),
        pytest.param("GET", f"/v1/users/a/history?{'x=a&' * 2001}", 400, "invalid_request", id="many"),
        ("GET", "/v1/users/a/recommendations?where=year%20%3E", 400, "invalid_request"),
        ("GET", "/v1/users/a/recommendations?cursor=x", 400, "invalid_request"),
        ("PATCH", "/v1/items", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/items", 405, "method_not_allowed"),
        ("POST", "/v1/health/live", 405, "method_not_allowed"),
    ],
)
def test_odd_requests_are_problems(http: TestClient, method: str, path: str, status: int, kind: str) -> None:
    answer = http.request(method, path)
    refused(answer, status, kind)
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/v1/items", b"", "invalid_json"),
        ("/v1/items", b"\xff", "invalid_json"),
        pytest.param("/v1/items", b'{"items":[' + b"[" * 100_000, "invalid_json", id="deep"),
        ("/v1/items", b"[]", "invalid_request"),
        ("/v1/items", b'{"items":[]}', "invalid_request"),
        ("/v1/items", b'{"items":[1],"odd":1}', "invalid_request"),
        ("/v1/items:get", b'{"ids":[1]}', "invalid_request"),
        ("/v1/interactions", b'{"interactions":{}}', "invalid_request"),
        ("/v1/users/a/verify-erasure", b'{"proof":1}', "invalid_request"),
    ],
)
def test_bodies_that_do_not_fit_are_problems(http: TestClient, path: str, body: bytes, kind: str) -> None:
    refused(http.post(path, content=body, headers={"content-type": "application/json"}), 400, kind)


def test_errors_about_users_quote_nothing(http: TestClient) -> None:
    answer = http.post("/v1/interactions", json={"interactions": "secret-user"})
    assert "secret-user" not in answer.text


@pytest.mark.parametrize(
    "headers",
    [{"content-type": "text/plain"}, {}, {"content-type": "application/json", "content-encoding": "gzip"}],
)
def test_another_media_type_is_refused(http: TestClient, headers: dict[str, str]) -> None:
    refused(http.post("/v1/recommend", content=b"{}", headers=headers), 415, "media_type")


def test_what_takes_no_stream_says_so(http: TestClient) -> None:
    headers = {"content-type": "application/x-ndjson"}
    refused(http.post("/v1/embed", content=b"{}", headers=headers), 415, "media_type")


@pytest.mark.parametrize("is_announced", [True, False])
def test_a_body_has_a_bound(
    http: TestClient, fake: FakeClient, monkeypatch: pytest.MonkeyPatch, is_announced: bool
) -> None:
    monkeypatch.setattr(exchange, "MOST_BYTES", 100)
    content = b"x" * 101
    parts = content if is_announced else iter([content[:60], content[60:]])
    refused(http.post("/v1/embed", content=parts, headers={"content-type": "application/json"}), 413, "too_large")
    assert fake.asked == []


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
