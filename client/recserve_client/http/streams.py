"""NDJSON in both directions: lines are answered as they arrive, one line for each, in their order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

import msgspec
from msgspec import Raw, Struct
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from recserve_client.http.exchange import NDJSON, Exchange, too_large
from recserve_client.http.problems import KNOWN_ERRORS, ProblemError, fault, problem_of

#: Answers some lines: a line for each.
AnswerLines = Callable[[list[bytes]], Awaitable[list[bytes]]]
#: Most bytes of a line, and of the lines that are one request.
_LINE_BYTES: Final = 1024 * 1024
_CHUNK_BYTES: Final = 4 * 1024 * 1024
#: Answered chunks that wait for a caller who sends without reading.
_WAITING: Final = 1024


async def in_one(
    lines: list[bytes], refusal: Callable[[str], Struct], answered: Callable[[list[Raw]], Awaitable[Sequence[Struct]]]
) -> list[bytes]:
    """A result for each line, of which those that are JSON are one request: another would spoil it for all.

    Args:
        lines: The lines.
        refusal: The result of a line that is not JSON, by what is wrong with it.
        answered: The results of the other lines.
    """
    results: list[Struct | None] = [None if (fault := _fault_of(line)) is None else refusal(fault) for line in lines]
    raws = [Raw(line) for line, result in zip(lines, results, strict=True) if result is None]
    done = iter(await answered(raws) if raws else ())
    return [msgspec.json.encode(next(done) if result is None else result) for result in results]


def _fault_of(line: bytes) -> str | None:
    """Why a line is no JSON; `None` where it is."""
    try:
        msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return str(error)
    return None


class StreamResponse(Response):
    """An answer of parts. Starlette's own would read the rest of the body, to notice when the caller leaves."""

    def __init__(self, parts: AsyncIterator[bytes]) -> None:
        super().__init__(media_type=NDJSON)
        del self.headers["content-length"]
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for part in self._parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def stream(exchange: Exchange, answer: AnswerLines, at_most: int) -> Response:
    """Answer the lines of the body.

    Where a chunk of lines fails as a whole, the stream ends with a problem document as its last line.

    Args:
        exchange: The request.
        answer: Answers a chunk.
        at_most: Lines of a chunk.

    Raises:
        ProblemError: The first chunk failed.
    """
    results: asyncio.Queue[bytes | ProblemError | None] = asyncio.Queue(_WAITING)
    reading = asyncio.create_task(_read(exchange, answer, at_most, results))
    first = await results.get()
    if isinstance(first, ProblemError):
        await reading
        raise first
    return StreamResponse(_parts(exchange, first, results, reading))


async def _parts(
    exchange: Exchange,
    first: bytes | None,
    results: asyncio.Queue[bytes | ProblemError | None],
    reading: asyncio.Task[None],
) -> AsyncIterator[bytes]:
    part: bytes | ProblemError | None = first
    try:
        while part is not None:
            if isinstance(part, ProblemError):
                yield msgspec.json.encode(part.problem(exchange.id)) + b"\n"
            else:
                yield part
            part = await results.get()
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading


async def _read(
    exchange: Exchange, answer: AnswerLines, at_most: int, results: asyncio.Queue[bytes | ProblemError | None]
) -> None:
    """Answer the lines as they arrive, and end with `None`."""
    done = 0
    try:
        async for lines, count in _chunks(exchange, at_most):
            answered = await answer(lines) if lines else []
            await results.put(b"".join(line + b"\n" for line in answered))
            done += count
    except Exception as error:
        problem = problem_of(error) if isinstance(error, KNOWN_ERRORS) else fault(error, exchange.id)
        problem.line = done + 1
        await results.put(problem)
    await results.put(None)


async def _chunks(exchange: Exchange, at_most: int) -> AsyncIterator[tuple[list[bytes], int]]:
    """The lines that are there when the last were answered, and how many there were with blank ones."""
    rest = b""
    async for part in exchange.parts():
        *lines, rest = (rest + part).split(b"\n")
        for chunk in _of_size(lines, at_most):
            yield chunk
        if len(rest) > _LINE_BYTES:
            raise too_large("a line", _LINE_BYTES)
    if rest.strip():
        yield [rest], 1


def _of_size(lines: list[bytes], at_most: int) -> list[tuple[list[bytes], int]]:
    """Chunks of at most so many lines and so many bytes."""
    chunks: list[tuple[list[bytes], int]] = []
    kept: list[bytes] = []
    count = size = 0
    for line in lines:
        if len(line) > _LINE_BYTES:
            raise too_large("a line", _LINE_BYTES)
        if len(kept) == at_most or size + len(line) > _CHUNK_BYTES:
            chunks.append((kept, count))
            kept, count, size = [], 0, 0
        count += 1
        if line.strip():
            kept.append(line)
            size += len(line)
    return [*chunks, (kept, count)] if count else chunks
