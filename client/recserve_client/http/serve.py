"""Runs the HTTP API by uvicorn, over a client of a server's gRPC."""

from __future__ import annotations

import resource
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from recserve_client.client import AsyncClient
from recserve_client.contract import ErrorKind
from recserve_client.http.app import App, AppOptions
from recserve_client.http.listening import Certificate, run
from recserve_client.http.problems import CONTENT_TYPE, ProblemError
from recserve_client.options import ClientOptions
from recserve_client.tls import Tls

#: Most bytes of the request line and the headers of a request.
_HEAD_BYTES: Final = 64 * 1024
#: What a header takes beside its name and value.
_HEADER_BYTES: Final = 32
#: Seconds that requests under way have to end when the program is told to stop.
_DRAIN_S: Final = 10


class _Protocol(HttpToolsProtocol):
    """HTTP/1.1 with a bound on headers; what cannot be parsed is a problem document, too."""

    _head_bytes = 0

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._bound(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._bound(len(name) + len(value) + _HEADER_BYTES)
        super().on_header(name, value)

    def send_400_response(self, msg: str) -> None:
        error = ProblemError(
            ErrorKind.INVALID_REQUEST, "this is no HTTP request that can be read, or its head is too large"
        )
        problem = msgspec.json.encode(error.problem(secrets.token_hex(16)))
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: {CONTENT_TYPE}\r\ncontent-length: {len(problem)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + problem)
        self.transport.close()

    def _bound(self, more_bytes: int) -> None:
        self._head_bytes += more_bytes
        if self._head_bytes > _HEAD_BYTES:
            raise ValueError("the head of the request is too large")


def serve(
    bound: socket.socket,
    address: str,
    options: AppOptions,
    client_options: ClientOptions,
    tls: Tls | None = None,
    on_ready: Callable[[], None] = lambda: None,
    certificate: Certificate | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, and let requests under way end.

    Args:
        bound: Where to listen.
        address: host:port of the server's gRPC.
        options: Options of the API.
        client_options: Deadline and retries of what it asks.
        tls: TLS to the server; `None` for plain text.
        on_ready: Called when it listens.
        certificate: For TLS to those who call; `None` for plain text.
    """

    @asynccontextmanager
    async def open_client() -> AsyncIterator[Any]:
        async with AsyncClient(address, client_options, tls=tls) as client:
            yield client

    # A connection is a file; the usual soft limit is 1,024.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    app, more = App(open_client, options), {"http": _Protocol, "loop": "uvloop", "ws": "none"}
    run(app, bound, on_ready, drain_s=_DRAIN_S, on_stop=app.stop, certificate=certificate, **more)
