"""The load generator: callers in a closed loop over prepared requests, in a process of its own."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, takewhile
from pathlib import Path
from typing import Final

import grpc
import numpy as np
from hdrh.histogram import HdrHistogram

from recserve_benchmarks.harness.worker import Worker
from recserve_client.contract.addresses import channel_options
from recserve_server_ext.common.arrays import Floats

METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"
_HIGHEST_US: Final = 60_000_000
CONNECT_S: Final = 30
_DEADLINE_S: Final = 600


@dataclass(frozen=True)
class Load:
    """What to send.

    Attributes:
        address: host:port.
        requests: Serialised ModelInferRequests; each is sent once.
        callers: Requests under way at a time.
        keep_answers: Whether the serialised answers are wanted.
        until: A file that ends the load when it appears; until then the requests are sent over and over.
    """

    address: str
    requests: Sequence[bytes]
    callers: int
    keep_answers: bool = False
    until: Path | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a load.

    Attributes:
        users: Good answers.
        errors: Failed requests by gRPC status.
        wall_s: From the first request to the last answer.
        p50_ms: Median latency.
        p99_ms: 99th percentile of the latency.
        answers: Serialised answers in the order of the requests, where they are wanted; empty for a failed request.
        moments: [users, 2] when each good answer came (seconds since 1970) and its latency (ms).
    """

    users: int
    errors: dict[str, int]
    wall_s: float
    p50_ms: float
    p99_ms: float
    answers: list[bytes]
    moments: Floats

    @property
    def users_per_s(self) -> float:
        """Good answers a second."""
        return self.users / self.wall_s


def load_generator() -> Worker[Load, Outcome]:
    """The process that sends loads."""
    return Worker("the load generator", _sender)


def _sender() -> Callable[[Load], Outcome]:
    return lambda load: asyncio.run(_send(load))


#: Sends a request; the answer. Raises LoadError.
Send = Callable[[bytes], Awaitable[bytes]]


class LoadError(Exception):
    """A request that failed, by the name of its status."""


async def _send(load: Load) -> Outcome:
    options = [("grpc.max_receive_message_length", -1), *channel_options(load.address)]
    async with grpc.aio.insecure_channel(load.address, options=options) as channel:
        infer = channel.unary_unary(METHOD, None, None)
        await asyncio.wait_for(channel.channel_ready(), CONNECT_S)

        async def send(request: bytes) -> bytes:
            try:
                answer: bytes = await infer(request, timeout=_DEADLINE_S)
            except grpc.RpcError as error:
                raise LoadError(error.code().name) from None
            return answer

        return await send_all(load, [send] * load.callers)


async def send_all(load: Load, callers: Sequence[Send]) -> Outcome:
    """Send a load.

    Args:
        load: What to send.
        callers: Sends the requests of each caller, one after the other.
    """
    latencies = HdrHistogram(1, _HIGHEST_US, 3)
    errors: Counter[str] = Counter()
    answers = [b""] * len(load.requests) if load.keep_answers else []
    moments: list[tuple[float, float]] = []
    numbered = _numbered(load)

    async def call(send: Send) -> None:
        for number, request in numbered:
            start = time.perf_counter()
            try:
                answer = await send(request)
            except LoadError as error:
                errors[str(error)] += 1
                continue
            took_s = time.perf_counter() - start
            latencies.record_value(max(1, int(took_s * 1e6)))
            moments.append((time.time(), took_s * 1000))
            if load.keep_answers:
                answers[number] = answer

    start = time.perf_counter()
    await asyncio.gather(*map(call, callers))
    wall_s = time.perf_counter() - start
    p50_ms, p99_ms = (latencies.get_value_at_percentile(percentile) / 1000 for percentile in (50, 99))
    seen = np.array(moments, np.float64).reshape(-1, 2)
    return Outcome(latencies.total_count, dict(errors), wall_s, p50_ms, p99_ms, answers, seen)


def _numbered(load: Load) -> Iterator[tuple[int, bytes]]:
    """The requests with their places, once or until the end is wanted; all callers share the iterator."""
    until = load.until
    if until is None:
        return iter(enumerate(load.requests))
    return takewhile(lambda _: not until.exists(), cycle(enumerate(load.requests)))
