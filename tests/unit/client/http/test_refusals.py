"""What the HTTP API refuses, and what it says then, over a client without a server."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from recserve_client.contract import MEANING_OF, ErrorKind
from recserve_client.errors import from_status
from recserve_client.http import exchange
from recserve_client.http.problems import HTTP_STATUS_OF, HttpKind
from support.fake_client import FakeClient
from support.http_api import refused

KEY = "rsk_" + "k" * 43


def test_every_kind_has_a_status() -> None:
    assert set(HTTP_STATUS_OF) == {*MEANING_OF, *HttpKind}


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_a_refusal_keeps_its_kind(http: TestClient, fake: FakeClient, kind: ErrorKind) -> None:
    fake.answers["recommend"] = from_status("INVALID_ARGUMENT", f"{kind}: why")
    answer = http.post("/v1/recommend", json={})
    assert refused(answer, HTTP_STATUS_OF[kind], kind)["detail"] == "why"
    assert ("retry-after" in answer.headers) == (HTTP_STATUS_OF[kind] == 503)


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
