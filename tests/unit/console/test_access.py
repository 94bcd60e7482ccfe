from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect
from typer.testing import CliRunner

from recserve_console import cli, serving
from recserve_console.access import Guard, PublicAddressError, check_loopback

HOST = "127.0.0.1:8090"


async def page(_: object) -> PlainTextResponse:
    return PlainTextResponse("the page")


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("the socket")


@pytest.fixture
def guarded() -> Guard:
    return Guard(Starlette(routes=[Route("/", page), WebSocketRoute("/socket", socket)]), {HOST})


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


@pytest.mark.parametrize("number", ["127.0.0.1", "127.0.0.2", "::1"])
def test_loopback_is_allowed(number: str) -> None:
    check_loopback("anything", number)


@pytest.mark.parametrize("number", ["0.0.0.0", "::", "10.0.0.1", "192.168.1.5", "2001:db8::1"])
def test_other_addresses_are_refused(number: str) -> None:
    with pytest.raises(PublicAddressError, match="from other machines"):
        check_loopback(number, number)


def test_the_console_listens_on_loopback_alone() -> None:
    with pytest.raises(PublicAddressError):
        serving.listen("0.0.0.0", 0)
    with serving.listen("localhost", 0) as bound:
        assert serving.name_of(bound).rpartition(":")[0] in ("127.0.0.1", "[::1]")


def test_the_command_says_why_it_refuses_another_address() -> None:
    refused = CliRunner().invoke(cli.app, ["--host", "0.0.0.0", "--port", "0"])
    assert refused.exit_code == 2
    assert "can be reached from other machines" in refused.stderr


def test_tls_that_is_set_in_part_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSERVE_TLS_CERT", "client.pem")
    refused = CliRunner().invoke(cli.app, ["--port", "0"])
    assert refused.exit_code == 2
    assert "TLS as the environment sets it does not work" in refused.stderr
