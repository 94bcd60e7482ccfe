"""The load generator for HTTP: callers with a connection each, in a process of its own.

It speaks HTTP/1.1 over plain sockets, since clients for applications cost several times as much as what is measured.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

from recserve_benchmarks.harness.load import Load, LoadError, Outcome, Send, send_all
from recserve_benchmarks.harness.worker import Worker

_HEAD: Final = "POST /v1/recommend HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n"
_LENGTH: Final = b"content-length: "


def http_generator() -> Worker[Load, Outcome]:
    """The process that sends loads; the requests are bodies for `/v1/recommend`."""
    return Worker("the load generator for HTTP", _sender)


def _sender() -> Callable[[Load], Outcome]:
    return lambda load: asyncio.run(_send(load))


async def _send(load: Load) -> Outcome:
    host, _, port = load.address.rpartition(":")
    async with AsyncExitStack() as stack:
        callers: list[Send] = []
        for _ in range(load.callers):
            reader, writer = await asyncio.open_connection(host, int(port))
            stack.callback(writer.close)
            callers.append(partial(_ask, reader, writer, load.address))
        return await send_all(load, callers)


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, body: bytes) -> bytes:
    writer.write(_HEAD.format(host, len(body)).encode() + body)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    start = head.index(_LENGTH) + len(_LENGTH)
    answer = await reader.readexactly(int(head[start : head.index(b"\r", start)]))
    status = head.split(b" ", 2)[1]
    if status != b"200":
        raise LoadError(status.decode())
    return answer
