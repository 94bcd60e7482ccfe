"""The ASGI application of the HTTP API: routes, request ids, refusals as problem documents, compression and CORS."""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette_compress import CompressMiddleware

from recserve_client.contract import shown
from recserve_client.contract.addresses import is_this_machine
from recserve_client.http.events.feeds import Feeds
from recserve_client.http.exchange import Asked, Exchange, Handle, json_response
from recserve_client.http.openapi import PATH as OPENAPI_PATH
from recserve_client.http.openapi import openapi_json
from recserve_client.http.operations import OPERATIONS
from recserve_client.http.problems import (
    KNOWN_ERRORS,
    HttpKind,
    ProblemError,
    busy,
    fault,
    problem_of,
    problem_response,
)

#: A request id that a caller may give.
_REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")
#: Key of the request id in a scope.
_ID: Final = "recserve.id"
#: What a response carries unless it says something else: answers are of one moment, and many of one user.
_HEADERS: Final = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))


@dataclass(frozen=True, kw_only=True)
class AppOptions:
    """Options of the HTTP API.

    Attributes:
        cors: Origins whose pages may call it; none by default.
        local: Whether `Host` must name this machine, so that no page can reach a local server under a name of its own.
        most_requests: Requests under way at a time; more are refused as `unavailable`.
        most_listeners: Streams of events at a time; more are refused as `unavailable`.
    """

    cors: Sequence[str] = ()
    local: bool = True
    most_requests: int = 1024
    most_listeners: int = 100


class App:
    """The application."""

    def __init__(self, open_client: Callable[[], AbstractAsyncContextManager[Asked]], options: AppOptions) -> None:
        """
        Args:
            open_client: Opens the client that it asks, in the event loop that serves.
            options: Options.
        """
        self._edge = _Edge(open_client, options)
        # Brotli is left out: Zstandard is smaller and faster, and everything has gzip.
        app: ASGIApp = CompressMiddleware(self._edge, brotli=False, zstd_level=3)
        if options.cors:
            exposed = ["ETag", "Retry-After", "X-Request-Id"]
            app = CORSMiddleware(app, options.cors, allow_methods=["*"], allow_headers=["*"], expose_headers=exposed)
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    def stop(self) -> None:
        """End the streams of events, which would not end by themselves."""
        self._edge.stop()


class _Edge:
    """Makes a request an exchange with an id, and whatever goes wrong a problem document."""

    def __init__(self, open_client: Callable[[], AbstractAsyncContextManager[Asked]], options: AppOptions) -> None:
        self._open = open_client
        self._options = options
        self._client: Asked | None = None
        self._feeds: Feeds | None = None
        self._under_way = 0
        self._refused: Counter[str] = Counter()
        self._router = Router(list(self._routes()), redirect_slashes=False, default=_not_found, lifespan=self._lifespan)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._router(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = _request_id(headers)
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                given = {name for name, _ in message["headers"]}
                more = [pair for pair in _HEADERS if pair[0] not in given]
                message["headers"] = [*message["headers"], *more, (b"x-request-id", request_id.encode())]
            await send(message)

        # Routes see the path as it was sent: no encoded slash or dot makes another path.
        scope["path"] = scope["raw_path"].decode("ascii")
        scope[_ID] = request_id
        self._under_way += 1
        try:
            self._check(headers, scope["path"])
            await self._router(scope, receive, sending)
        except KNOWN_ERRORS as error:
            problem = problem_of(error)
            self._refused[str(problem.kind)] += 1
            await problem_response(problem, request_id)(scope, receive, sending)
        except Exception as error:
            problem = fault(error, request_id)
            self._refused[str(problem.kind)] += 1
            if started:
                raise
            await problem_response(problem, request_id)(scope, receive, sending)
        finally:
            self._under_way -= 1

    def _check(self, headers: Mapping[bytes, bytes], path: str) -> None:
        # A busy process is live.
        if self._under_way > self._options.most_requests and path != "/v1/health/live":
            raise busy(self._options.most_requests)
        host = headers.get(b"host", b"").decode("latin-1")
        if self._options.local and not is_this_machine(host):
            raise ProblemError(HttpKind.WRONG_HOST, f"the host {shown(host)} is not this machine; see --host")

    @asynccontextmanager
    async def _lifespan(self, _: Any) -> AsyncIterator[None]:
        async with self._open() as client:
            self._client = client
            self._feeds = Feeds(client.run, self._options.most_listeners, self._refused)
            yield
            self._feeds.stop()

    def stop(self) -> None:
        """End the streams of events."""
        if self._feeds is not None:
            self._feeds.stop()

    def _routes(self) -> Iterator[Route]:
        handles: dict[str, dict[str, Handle]] = {OPENAPI_PATH: {"GET": _openapi}}
        for operation in OPERATIONS:
            handles.setdefault(operation.path, {})[operation.method] = operation.handle
        for path, of in handles.items():
            yield Route(path, _Methods(self, of))

    def exchange(self, scope: Scope, receive: Receive) -> Exchange:
        """A request with the client."""
        assert self._client is not None
        assert self._feeds is not None
        return Exchange(Request(scope, receive), self._client, self._feeds, scope[_ID], scope["path_params"])


class _Methods:
    """The operations of one path by method."""

    def __init__(self, edge: _Edge, handles: Mapping[str, Handle]) -> None:
        self._edge = edge
        self._handles = {**handles}
        if "GET" in handles:
            self._handles["HEAD"] = handles["GET"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handle = self._handles.get(scope["method"])
        if handle is None:
            allowed = ", ".join(sorted(self._handles))
            text = f"there is no {shown(scope['method'])} here; there are: {allowed}"
            raise ProblemError(HttpKind.METHOD_NOT_ALLOWED, text, {"allow": allowed})
        response = await handle(self._edge.exchange(scope, receive))
        await response(scope, receive, send)


async def _openapi(exchange: Exchange) -> Response:
    """The OpenAPI document."""
    return json_response(openapi_json(), headers={"cache-control": "max-age=300"})


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    raise ProblemError(HttpKind.NOT_FOUND, f"there is nothing at {shown(scope['path'])}; see {OPENAPI_PATH}")


def _request_id(headers: Mapping[bytes, bytes]) -> str:
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
