"""The HTTP API in front of a real Triton: every operation, the schema, the lines of the docs, and bad input."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, given
from schemathesis import checks

from recserve_client import Client, item
from recserve_client.contract import NewItem, Slate
from recserve_client.http.exchange import EVENT_STREAM
from recserve_client.http.operations import OPERATIONS, Operation
from support.examples import examples
from support.fake_client import lines
from support.http_api import http_api
from support.markdown import blocks, read
from support.served import Served

pytestmark = pytest.mark.triton
NDJSON = {"content-type": "application/x-ndjson"}


@pytest.fixture(scope="module")
def http_address(live: Served) -> Iterator[str]:
    """The API over the server that tests may change."""
    with http_api(live.grpc) as address:
        yield address


@pytest.fixture
def http(http_address: str, client: Client) -> Iterator[httpx.Client]:
    """A caller of a server that has the item of the examples; afterwards both must still answer."""
    client.items.upsert([NewItem("example-1", {"title": "The Clockmaker's Comet"}, {"year": 1968})])
    with httpx.Client(base_url=f"http://{http_address}", timeout=60, trust_env=False) as caller:
        yield caller
        assert caller.get("/v1/health/ready").json() == {"status": "ready"}


def kind(answer: httpx.Response) -> str:
    """The kind of a problem document."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    assert "Traceback" not in answer.text
    return str(answer.json()["kind"])


@pytest.mark.parametrize("fault", [{"on_cold": "a-secret"}, {"min_revision": 10**9}], ids=["at once", "later"])
def test_a_refusal_is_logged_with_the_id_of_the_request(
    fault: dict[str, Any], http: httpx.Client, live: Served
) -> None:
    request_id = f"id-of-{next(iter(fault))}"
    body = {"history": [{"item": "example-1"}], **fault}
    answer = http.post("/v1/recommend", json=body, headers={"x-request-id": request_id})
    assert answer.json()["request_id"] == request_id
    logged = live.logged("refused")
    while request_id not in [one["request_id"] for one in logged]:
        logged = live.wait_for("refused", count=len(logged) + 1)
    (found,) = [one for one in logged if one["request_id"] == request_id]
    assert (found["model"], found["kind"]) == ("recommend", kind(answer))
    assert "secret" not in found["text"]


# --- operations ---


def test_a_slate_is_that_of_grpc(http: httpx.Client, live: Served) -> None:
    with Client(live.grpc) as client:
        expected = client.recommend([item("example-1")], k=5, fields=["title"])
    answer = http.post("/v1/recommend", json={"history": [{"item": "example-1"}], "k": 5, "fields": ["title"]})
    found = answer.json()
    assert [(one["id"], one["fields"]) for one in found["items"]] == [(one.id, one.fields) for one in expected.items]
    assert [one["score"] for one in found["items"]] == pytest.approx([one.score for one in expected.items], abs=1e-5)


def test_an_item_is_changed_by_its_etag(http: httpx.Client) -> None:
    path = "/v1/items/http%2Fa%20b"
    put = http.put(path, json={"texts": {"title": "First"}}, headers={"if-none-match": "*"})
    assert put.status_code == 201
    got = http.get(path)
    assert (got.headers["etag"], got.json()["id"]) == (put.headers["etag"], "http/a b")
    assert http.get(path, headers={"if-none-match": got.headers["etag"]}).status_code == 304
    assert kind(http.put(path, json={"texts": {"title": "x"}}, headers={"if-none-match": "*"})) == "precondition_failed"
    changed = http.put(path, json={"texts": {"title": "Second"}}, headers={"if-match": got.headers["etag"]})
    assert changed.json()["status"] == "updated"
    assert http.delete(path, headers={"if-match": got.headers["etag"]}).status_code == 412
    assert http.delete(path, headers={"if-match": changed.headers["etag"]}).json()["status"] == "deleted"
    assert kind(http.get(path)) == "unknown_item"


def test_a_change_with_a_key_is_made_once(http: httpx.Client) -> None:
    headers = {"idempotency-key": "http-key-1"}
    first = http.post("/v1/items", json={"items": [{"id": "http-k", "texts": {"title": "K"}}]}, headers=headers).json()
    again = http.post("/v1/items", json={"items": [{"id": "http-k", "texts": {"title": "K"}}]}, headers=headers).json()
    assert (first["is_replay"], again["is_replay"]) == (False, True)
    assert (first["revision"], first["results"]) == (again["revision"], again["results"])
    other = http.post("/v1/items", json={"items": [{"id": "http-o", "texts": {"title": "O"}}]}, headers=headers)
    assert (other.status_code, kind(other)) == (422, "request_id_reused")


def test_a_user_is_recorded_recommended_exported_and_erased(http: httpx.Client) -> None:
    new = {"user_id": "http/ü", "type": "like", "item": "example-1", "timestamp": 1790000000}
    assert http.post("/v1/interactions", json={"interactions": [new]}).json()["results"][0]["status"] == "recorded"
    user = "/v1/users/http%2F%C3%BC"
    assert http.get(f"{user}/history").json()["entries"][0]["item"] == "example-1"
    slate = http.get(f"{user}/recommendations", params={"k": 3, "where": "year >= 1900"}).json()
    assert slate["history"][0]["item"] == "example-1"
    assert len(http.get(user).json()["interactions"]) == 1
    receipt = http.delete(user).json()
    checked = http.post(f"{user}/verify-erasure", json=receipt).json()
    assert (checked["is_valid"], checked["interactions"]) == (True, 0)


def test_strategies_are_told(http: httpx.Client) -> None:
    served = http.get("/v1/strategies").json()
    names = [one["name"] for one in served["strategies"]]
    assert served["default"] in names
    refused = http.post("/v1/recommend", json={"history": [{"item": "example-1"}], "strategy": "nope"})
    assert ", ".join(names) in refused.json()["detail"]


def test_ten_thousand_lines_are_stored(http: httpx.Client) -> None:
    new = [
        {"user_id": "http-many", "type": "view", "text": f"t{n}", "timestamp": 1790000000 + n} for n in range(10_000)
    ]
    body = b"\n".join(json.dumps(line).encode() for line in new)
    found = lines(http.post("/v1/interactions", content=body, headers=NDJSON).content)
    assert [line["status"] for line in found] == ["recorded"] * 10_000
    assert len(http.get("/v1/users/http-many").json()["interactions"]) == 10_000
    assert len(http.get("/v1/users/http-many", headers={"accept-encoding": "zstd"}).content) > 0


def test_a_stream_of_requests_has_a_slate_or_a_problem_a_line(http: httpx.Client) -> None:
    body = b'{"history":[{"item":"example-1"}],"k":2}\n{"k":0}\n\xff\n' * 40
    found = lines(http.post("/v1/recommend", content=body, headers=NDJSON).content)
    kinds = [line.get("kind", len(line.get("items", []))) for line in found]
    assert kinds == [2, "invalid_request", "invalid_json"] * 40


# --- the schema ---


CHECKS = (
    "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance",
)  # fmt: skip


@pytest.fixture(scope="module")
def described(http_address: str) -> Any:
    """The API by its document."""
    return schemathesis.openapi.from_url(f"http://{http_address}/v1/openapi.json")


# A stream of events does not end; tests/integration/test_events_wire.py has it.
DRAWN = [operation for operation in OPERATIONS if operation.media != EVENT_STREAM]


@pytest.mark.parametrize("operation", DRAWN, ids=lambda one: str(one.name))
def test_answers_are_as_the_document_says(described: Any, operation: Operation) -> None:
    """By drawn requests. The library's coverage phase is left out: filters are recursive, and it does not end."""
    allowed = [checks.CHECKS.get_one(name) for name in CHECKS]

    @examples(20, suppress_health_check=list(HealthCheck))
    @given(case=described[operation.path][operation.method].as_strategy())
    def check(case: Any) -> None:
        answer = case.call(timeout=60)
        # A revision that does not come is waited for, and refused as 503 as over gRPC.
        assert answer.status_code < 500 or (answer.status_code, answer.json()["kind"]) == (503, "stale_revision")
        case.validate_response(answer, checks=allowed)

    check()


# --- the docs ---


def curls(page: str) -> list[str]:
    """The pipelines with curl of a page."""
    found: list[str] = []
    for block in blocks(read(page), "sh"):
        text = re.sub(r"(\\|\|)\n\s+", lambda match: "" if match[1] == "\\" else "| ", block)
        found += [line for line in text.splitlines() if "curl " in line]
    return found


@pytest.mark.parametrize("page", ["how-to/serve-http.md", "reference/http.md"])
def test_the_lines_of_the_docs_run(http: httpx.Client, http_address: str, page: str) -> None:
    commands = curls(page)
    assert len(commands) > 7
    for command in commands:
        line = command.replace("curl ", "curl --noproxy '*' --fail-with-body ", 1)
        line = line.replace("127.0.0.1:8080", http_address)
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        for answer in done.stdout.splitlines():
            json.loads(answer)


# --- bad input ---


def exchange(address: str, request: bytes) -> bytes:
    """What raw bytes are answered with."""
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        found = b""
        while part := connection.recv(65536):
            found += part
    return found


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(b"FOO /v1/items HTTP/1.1\r\nhost: localhost\r\n\r\n", id="method"),
        pytest.param(b"\x16\x03\x01\x02\x00", id="tls"),
        pytest.param(b"GET /v1/it\xffems HTTP/1.1\r\nhost: localhost\r\n\r\n", id="path"),
        pytest.param(b"GET /" + b"a" * 66_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n", id="long path"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"x: y\r\n" * 2000 + b"\r\n", id="headers"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: localhost\r\nx\x00: y\r\n\r\n", id="header"),
        pytest.param(b"POST /v1/items HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n", id="length"),
        pytest.param(b"GET /v1/../../etc/passwd HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", id="dots"),
        pytest.param(b"GET /v1/%2e%2e/%00 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", id="encoded"),
    ],
)
def test_what_is_no_request_is_a_problem(http: httpx.Client, http_address: str, request_: bytes) -> None:
    head, _, body = exchange(http_address, request_).partition(b"\r\n\r\n")
    assert re.match(rb"HTTP/1.1 4\d\d ", head), head
    assert b"application/problem+json" in head
    assert json.loads(body)["kind"] in ("invalid_request", "not_found")


@pytest.mark.parametrize("content_type", ["application/json", "application/x-ndjson"])
@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/items", "/v1/interactions"])
def test_a_hundred_megabytes_are_refused(http: httpx.Client, path: str, content_type: str) -> None:
    def body() -> Iterator[bytes]:
        yield from [b"x" * 1_000_000] * 100

    answer = http.post(path, content=body(), headers={"content-type": content_type})
    assert (answer.status_code, kind(answer)) == (413, "too_large")
    announced = http.post(path, content=body(), headers={"content-type": content_type, "content-length": "100000000"})
    assert (announced.status_code, kind(announced)) == (413, "too_large")


def test_the_limits_of_the_server_are_told(http: httpx.Client) -> None:
    answer = http.post("/v1/recommend", json={"history": [{"text": "x" * 5_000_000}]})
    assert (answer.status_code, kind(answer)) == (413, "too_large")
    assert "limits." in answer.json()["detail"]


def test_a_thousand_callers_at_once_are_answered(http: httpx.Client, http_address: str) -> None:
    with ExitStack() as stack:
        host, _, port = http_address.partition(":")
        idle = [stack.enter_context(socket.create_connection((host, int(port)), timeout=60)) for _ in range(400)]

        def ask(number: int) -> int:
            query = {"history": [{"item": "example-1"}], "k": 1}
            answer = httpx.post(f"http://{http_address}/v1/recommend", json=query, timeout=60, trust_env=False)
            return answer.status_code

        with ThreadPoolExecutor(32) as pool:
            assert set(pool.map(ask, range(600))) <= {200, 503}
        assert len(idle) == 400


def test_without_a_server_it_is_live_and_not_ready(tmp_path: Path) -> None:
    with http_api("127.0.0.1:1", "--deadline", "1") as address:
        base = f"http://{address}"
        assert httpx.get(f"{base}/v1/health/live", trust_env=False).status_code == 200
        for answer in (
            httpx.get(f"{base}/v1/health/ready", trust_env=False),
            httpx.post(f"{base}/v1/recommend", json={}, trust_env=False),
            httpx.post(f"{base}/v1/items", content=b'{"id":"a"}\n', headers=NDJSON, trust_env=False),
        ):
            assert (answer.status_code, kind(answer), answer.headers["retry-after"]) == (503, "unavailable", "1")


def test_a_slate_of_http_is_a_slate(http: httpx.Client) -> None:
    answer = http.post("/v1/recommend/text", json={"history": [{"text": "space"}], "k": 2})
    assert len(msgspec.json.decode(answer.content, type=Slate).items) == 2


def test_every_answer_is_json(http: httpx.Client) -> None:
    request = {"history": [{"text": "space"}], "k": 2, "accept": "msgpack"}
    answer = http.post("/v1/recommend", json=request)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert len(msgspec.json.decode(answer.content, type=Slate).items) == 2
