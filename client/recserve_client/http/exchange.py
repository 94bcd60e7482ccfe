"""One HTTP request, with what its operation needs: parameters, body, headers, and the client to ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import parse_qsl, unquote

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from tritonclient.grpc import service_pb2

from recserve_client.api_key import check_key
from recserve_client.calls import Call, packed_answer, packed_call
from recserve_client.contract import ErrorKind, RequestError, Unpacker, shown
from recserve_client.contract.recommend import TRACEPARENT
from recserve_client.http.events.feeds import Feeds
from recserve_client.http.problems import HttpKind, ProblemError

R = TypeVar("R")
S = TypeVar("S", bound=msgspec.Struct)
JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
EVENT_STREAM: Final = "text/event-stream"
#: Most bytes of a body that is not a stream: above the server's bound of a request to `items`, which it explains.
MOST_BYTES: Final = 49 * 1024 * 1024
#: Seconds for a body to arrive, or for the next part of a stream.
_BODY_S: Final = 60.0
#: Most parameters of a query.
_MOST_PARAMETERS: Final = 2000


class Asked(Protocol):
    """What the API asks: an `AsyncClient`."""

    def run(self, call: Call[R]) -> Awaitable[R]:
        """The answer to a call; raises RecserveError."""


@dataclass
class Exchange:
    """One HTTP request.

    Attributes:
        request: The request.
        client: Asks the server.
        feeds: Feeds of events.
        id: Id of the request.
        path: Values of the path's parameters, percent-encoded.
    """

    request: Request
    client: Asked
    feeds: Feeds
    id: str
    path: dict[str, str]

    async def ask(self, model: str, raw: bytes, deadline_s: float | None = None) -> bytes:
        """Send a packed message to a model; the packed answer.

        Raises:
            RecserveError: See `recserve_client.errors`.
        """
        return await self.run(packed_call(model, raw, _json_answer, deadline_s))

    async def run(self, call: Call[R]) -> R:
        """The answer to a call with the caller's key and the request's id; raises RecserveError."""
        if isinstance(call.request, service_pb2.ModelInferRequest):
            call.request.id = self.id
        return await self.client.run(replace(call, key=self.key))

    @cached_property
    def key(self) -> str:
        """The caller's API key, of `Authorization: Bearer` or `X-Api-Key`; empty without one.

        Raises:
            ProblemError: It has characters that no key has, or there are two.
        """
        headers = self.request.headers
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = {key.strip() for key in (token if scheme.lower() == "bearer" else "", headers.get("x-api-key", ""))}
        keys = given - {""}
        try:
            (key,) = map(check_key, keys or {""})
        except ValueError:
            raise ProblemError(ErrorKind.UNAUTHENTICATED, "a valid key is needed") from None
        return key

    def part(self, name: str) -> str:
        """A parameter of the path, decoded; raises ProblemError where it is not UTF-8."""
        try:
            return unquote(self.path[name], errors="strict")
        except UnicodeDecodeError:
            raise ProblemError(ErrorKind.INVALID_REQUEST, f"{name} in the path is not UTF-8") from None

    def query(self, kind: type[S]) -> S:
        """The parameters of the query; fields of a list take all values of their name.

        Raises:
            ProblemError: A parameter is unknown, repeated or invalid.
        """
        lists = _lists(kind)
        given: dict[str, Any] = {}
        for name, value in self._parameters:
            if name in lists:
                given.setdefault(name, []).append(value)
            elif name in given:
                raise ProblemError(ErrorKind.INVALID_REQUEST, f"the parameter {shown(name)} is given twice")
            else:
                given[name] = value
        try:
            return msgspec.convert(given, kind, strict=False)
        except msgspec.ValidationError as error:
            raise ProblemError(ErrorKind.INVALID_REQUEST, f"the parameters of the query: {error}") from None

    @cached_property
    def _parameters(self) -> list[tuple[str, str]]:
        raw = self.request.scope["query_string"]
        try:
            return parse_qsl(
                raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MOST_PARAMETERS
            )
        except ValueError:  # UnicodeDecodeError is one
            text = f"the query is not percent-encoded UTF-8 with at most {_MOST_PARAMETERS} parameters"
            raise ProblemError(ErrorKind.INVALID_REQUEST, text) from None

    @property
    def traceparent(self) -> str:
        """The caller's span, of the header; empty without one, and where it is of a form that is not known."""
        given = self.request.headers.get("traceparent", "")
        return given if TRACEPARENT.fullmatch(given) else ""

    @property
    def is_stream(self) -> bool:
        """Whether the body is a stream of lines; raises ProblemError where it is neither that nor JSON."""
        given = self.request.headers.get("content-type", "")
        kind = given.partition(";")[0].strip().lower()
        if kind not in (JSON, NDJSON):
            raise ProblemError(HttpKind.MEDIA_TYPE, f"the content type is {shown(given)}; send {JSON} or {NDJSON}")
        encoding = self.request.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise ProblemError(HttpKind.MEDIA_TYPE, f"the content encoding is {shown(encoding)}; send none")
        return kind == NDJSON

    async def body(self) -> bytes:
        """The JSON body.

        Raises:
            ProblemError: It is of another type, too large, or did not arrive in time.
        """
        if self.is_stream:
            raise ProblemError(HttpKind.MEDIA_TYPE, f"this takes no stream; send {JSON}")
        length = self.request.headers.get("content-length", "")
        if length.isdigit() and int(length) > MOST_BYTES:
            raise too_large(f"the body of {int(length):,} bytes")
        parts = bytearray()
        async for part in self.parts():
            parts += part
            if len(parts) > MOST_BYTES:
                raise too_large("the body")
        return bytes(parts)

    async def message(self, unpack: Unpacker[S]) -> S:
        """The body as a struct.

        Raises:
            ProblemError: As in `body`.
            RequestError: The body is not JSON, or does not fit.
        """
        return unpack(await self.body())

    async def parts(self) -> AsyncIterator[bytes]:
        """The parts of the body as they arrive; raises ProblemError where the next one does not come in time."""
        arriving = aiter(self.request.stream())
        while True:
            try:
                async with asyncio.timeout(_BODY_S):
                    part = await anext(arriving)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise ProblemError(HttpKind.BODY_TIMEOUT, f"nothing of the body came for {_BODY_S:g} s") from None
            except ClientDisconnect:
                raise ProblemError(HttpKind.BODY_TIMEOUT, "the caller left before the body was complete") from None
            if part:
                yield part


#: What an operation does.
Handle = Callable[[Exchange], Awaitable[Response]]


def too_large(what: str, most: int = MOST_BYTES) -> ProblemError:
    """The problem of something too large."""
    return ProblemError(ErrorKind.TOO_LARGE, f"{what} is larger than {most:,} bytes; send less at a time")


def _json_answer(answer: Any) -> bytes:
    """The packed message of a protobuf answer as JSON, also where the request accepts another form."""
    raw = packed_answer(answer)
    return raw if raw.startswith(b"{") else msgspec.json.encode(msgspec.msgpack.decode(raw))


def json_response(raw: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer with JSON."""
    return Response(raw, status, headers, media_type=JSON)


def invalid(text: str) -> RequestError:
    """The refusal of an invalid request."""
    return RequestError(ErrorKind.INVALID_REQUEST, text)


@cache
def _lists(kind: type[msgspec.Struct]) -> frozenset[str]:
    """Names of the fields of a struct that are lists."""
    found = msgspec.inspect.type_info(kind)
    assert isinstance(found, msgspec.inspect.StructType)
    return frozenset(field.encode_name for field in found.fields if isinstance(field.type, msgspec.inspect.ListType))
