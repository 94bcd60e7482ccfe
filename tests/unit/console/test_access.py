from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect
from typer.testing import CliRunner

from recserve_console import cli
from recserve_console.access import Guard, PublicAddressError, check_public, is_loopback
from recserve_console.login import add_login
from recserve_console.visitors import Sessions
from recserve_server_ext.access.key_file import create_key, revoke_key
from recserve_server_ext.access.scopes import Scope

HOST = "127.0.0.1:8090"


async def page(_: object) -> PlainTextResponse:
    return PlainTextResponse("the page")


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("the socket")


@pytest.fixture
def guarded() -> Guard:
    routes = [Route("/", page), WebSocketRoute("/socket", socket)]
    return Guard(Starlette(routes=routes), {HOST}, Sessions(None, is_local=True))


@pytest.mark.parametrize("headers", [{}, {"origin": f"http://{HOST}"}])
def test_its_own_pages_are_answered_with_a_policy(guarded: Guard, headers: dict[str, str]) -> None:
    with TestClient(guarded, f"http://{HOST}") as client:
        answer = client.get("/", headers=headers)
        assert answer.text == "the page"
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        with client.websocket_connect("/socket", headers={"host": HOST} | headers) as opened:
            assert opened.receive_text() == "the socket"


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "example.org"},
        {"host": "127.0.0.1:9999"},
        {"host": f"{HOST}.example.org"},
        {"origin": "http://example.org"},
        {"origin": f"https://{HOST}"},
        {"origin": "null"},
    ],
)
def test_other_hosts_and_origins_are_refused(guarded: Guard, headers: dict[str, str]) -> None:
    with TestClient(guarded, f"http://{HOST}") as client:
        answer = client.get("/", headers=headers)
        assert answer.status_code == 421
        assert "the page" not in answer.text
        named = {"host": HOST} | headers
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/socket", headers=named):
            pass


@pytest.mark.parametrize(
    ("number", "expected"),
    [("127.0.0.1", True), ("127.0.0.2", True), ("::1", True)]
    + [(number, False) for number in ("0.0.0.0", "::", "10.0.0.1", "192.168.1.5", "2001:db8::1")],
)
def test_what_is_loopback(number: str, expected: bool) -> None:
    assert is_loopback(number) is expected


@pytest.mark.parametrize(
    ("has_tls", "has_keys", "insecure", "why"),
    [
        (True, False, False, "no key that people could show"),
        (False, True, False, "plain text"),
        (False, False, True, "no key that people could show"),
        (True, True, False, ""),
        (False, True, True, ""),
    ],
)
def test_what_an_open_address_needs(has_tls: bool, has_keys: bool, insecure: bool, why: str) -> None:
    def check() -> None:
        check_public("0.0.0.0", has_tls=has_tls, has_keys=has_keys, insecure=insecure)

    if why:
        with pytest.raises(PublicAddressError, match=why):
            check()
    else:
        check()


def test_the_command_says_why_it_refuses_an_open_address(tmp_path: Path) -> None:
    words = ["--host", "0.0.0.0", "--port", "0", "--home", str(tmp_path)]
    refused = CliRunner().invoke(cli.app, words)
    assert refused.exit_code == 2
    assert "recserve keys create" in refused.stderr
    create_key(tmp_path / "api-keys.json", "people", [Scope.ADMIN])
    refused = CliRunner().invoke(cli.app, words)
    assert refused.exit_code == 2
    assert "plain text" in refused.stderr


@pytest.fixture
def open_house(tmp_path: Path) -> tuple[Guard, str, str, Path]:
    """A console that other machines reach, over TLS; a key with its id, and the file of keys."""
    keys = tmp_path / "api-keys.json"
    key_id, key = create_key(keys, "people", [Scope.RECOMMEND])
    sessions = Sessions(keys, is_local=False)
    app = FastAPI(routes=[Route("/", page), WebSocketRoute("/socket", socket)])
    add_login(app, sessions, has_tls=True)
    return Guard(app, {HOST}, sessions, has_tls=True), key_id, key, keys


def test_others_show_a_key_first(open_house: tuple[Guard, str, str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    guard, key_id, key, keys = open_house
    monkeypatch.setattr("recserve_server_ext.common.followed_file._LOOK_S", 0.0)
    url = "https://console.example.org"
    with TestClient(guard, url, follow_redirects=False) as client:
        asked = client.get("/")
        assert (asked.status_code, asked.headers["location"]) == (303, "/login")
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("wss://console.example.org/socket"):
            pass
        assert 'type="password"' in client.get("/login").text
        refused = client.post("/login", data={"key": "rsk_wrong"})
        assert (refused.status_code, "set-cookie" in refused.headers) == (401, False)
        assert "default-src 'self'" in refused.headers["content-security-policy"]
        assert client.post("/login", content=b"key=" + b"x" * 100_000).status_code == 401
        foreign = client.post("/login", data={"key": key}, headers={"origin": "https://example.net"})
        assert foreign.status_code == 421
        let_in = client.post("/login", data={"key": key}, headers={"origin": url})
        assert (let_in.status_code, let_in.headers["location"]) == (303, "/")
        cookie = let_in.headers["set-cookie"].lower()
        assert cookie.startswith("__host-recserve=")
        assert all(part in cookie for part in ("httponly", "samesite=strict", "secure", "path=/"))
        assert key not in cookie
        assert client.get("/").text == "the page"
        revoke_key(keys, key_id)
        assert client.get("/").status_code == 303


def test_one_may_leave(open_house: tuple[Guard, str, str, Path]) -> None:
    guard, _, key, _ = open_house
    with TestClient(guard, "https://console.example.org", follow_redirects=False) as client:
        client.post("/login", data={"key": key})
        kept = client.cookies["__Host-recserve"]
        assert client.post("/logout").headers["location"] == "/login"
        assert client.get("/", headers={"cookie": f"__Host-recserve={kept}"}).status_code == 303


def test_tls_that_is_set_in_part_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSERVE_TLS_CERT", "client.pem")
    refused = CliRunner().invoke(cli.app, ["--port", "0"])
    assert refused.exit_code == 2
    assert "TLS as the environment sets it does not work" in refused.stderr
