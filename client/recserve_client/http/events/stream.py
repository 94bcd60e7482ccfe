"""The operation that streams events, as `text/event-stream` of the HTML standard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from recserve_client.http.events.feeds import Listener
from recserve_client.http.exchange import EVENT_STREAM, Exchange

#: Seconds without an event after which a comment is sent, so that nobody takes the stream for dead.
_HEARTBEAT_S: Final = 15.0
#: Seconds in which a caller must read what was sent.
_SEND_S: Final = 30.0
_COMMENT: Final = b":\n\n"


async def events(exchange: Exchange) -> Response:
    """The state of the server, then an event for each change. It ends where the key is refused from then on."""
    # A proxy must not hold events back.
    headers = {"x-accel-buffering": "no"}
    if exchange.request.method == "HEAD":
        return Response(headers=headers, media_type=EVENT_STREAM)
    listener = await exchange.feeds.listen(exchange.key, exchange.request.headers.get("last-event-id", ""))
    return _EventResponse(listener, headers)


class _EventResponse(StreamingResponse):
    """The stream of a listener, who is let go at its end."""

    def __init__(self, listener: Listener, headers: dict[str, str]) -> None:
        super().__init__(_parts(listener), headers=headers, media_type=EVENT_STREAM)
        self._listener = listener

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            async with asyncio.timeout(_SEND_S):
                await send(message)

        try:
            with suppress(TimeoutError):
                await super().__call__(scope, receive, sending)
        finally:
            self._listener.end()


async def _parts(listener: Listener) -> AsyncIterator[bytes]:
    while True:
        try:
            async with asyncio.timeout(_HEARTBEAT_S):
                event = await listener.next()
        except TimeoutError:
            yield _COMMENT
            continue
        if event is None:
            return
        yield event.encoded()
