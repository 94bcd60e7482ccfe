"""The open-loop load generator: requests are sent at their moments, however slow the answers are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

from recserve_benchmarks.harness.load import CONNECT_S, METHOD
from recserve_benchmarks.harness.worker import Worker
from recserve_client.contract import ErrorKind, split_message
from recserve_client.contract.addresses import channel_options
from recserve_client.throttle import Throttle
from recserve_server_ext.common.arrays import Floats, Ints

#: Requests that are late, and may go out together before answers are read.
_TOGETHER: Final = 8


class Fate(IntEnum):
    """What came of a request: an answer, a refusal, nothing before the deadline, another error, or it was not sent."""

    GOOD = 0
    REFUSED = 1
    MISSED = 2
    FAILED = 3
    HELD_BACK = 4


@dataclass(frozen=True)
class OpenLoad:
    """What to send, and when.

    Attributes:
        address: host:port.
        requests: Serialised ModelInferRequests; request n is `requests[n % len(requests)]`.
        moments: [n] seconds after the start, ascending.
        deadline_s: Deadline of each request.
        throttled: Whether callers hold requests back as the client does, and let them wait for a place.
        probe: Serialised ModelInferRequest that is sent after the last one, again and again; empty for none.
        probe_every_s: Time between two of these.
        probes: How many.
    """

    address: str
    requests: Sequence[bytes]
    moments: Floats
    deadline_s: float
    throttled: bool = False
    probe: bytes = b""
    probe_every_s: float = 0.02
    probes: int = 0


@dataclass(frozen=True, eq=False)
class OpenOutcome:
    """What came of an open load; the times are seconds.

    Attributes:
        fates: [n] `Fate` of each request.
        sent: [n] when it was sent, after the start.
        took: [n] how long until its answer or error, with the wait for a place.
        probes_sent: [probes] when each probe was sent, after the last moment of the load.
        probes_took: [probes] latency of each probe; infinite for one that failed.
        errors: Messages of some failed requests.
    """

    fates: Ints
    sent: Floats
    took: Floats
    probes_sent: Floats
    probes_took: Floats
    errors: list[str]


def with_timeout(request: bytes, deadline_s: float) -> bytes:
    """A serialised ModelInferRequest that tells the server its deadline, as the client does."""
    message = service_pb2.ModelInferRequest.FromString(request)
    message.parameters["timeout"].int64_param = int(deadline_s * 1e6)
    raw: bytes = message.SerializeToString()
    return raw


def poisson_moments(rate: float, seconds: float, seed: Sequence[int]) -> Floats:
    """Arrivals of a Poisson process of a rate (1/s), for so many seconds."""
    random = np.random.default_rng(seed)
    count = int(rate * seconds * 1.2) + 50
    moments: Floats = np.cumsum(random.exponential(1 / rate, count))
    return moments[moments < seconds]


def open_load_generator() -> Worker[OpenLoad, OpenOutcome]:
    """The process that sends open loads."""
    return Worker("the open load generator", _sender)


def _sender() -> Callable[[OpenLoad], OpenOutcome]:
    return lambda load: asyncio.run(_Sending(load).run())


class _Sending:
    """One load under way."""

    def __init__(self, load: OpenLoad) -> None:
        self._load = load
        count = len(load.moments)
        self._fates = np.full(count, Fate.FAILED, np.int64)
        self._sent, self._took = np.zeros(count), np.zeros(count)
        self._errors: list[str] = []
        self._throttle = Throttle()

    async def run(self) -> OpenOutcome:
        load = self._load
        requests = [with_timeout(request, load.deadline_s) for request in load.requests]
        options = [("grpc.max_receive_message_length", -1), *channel_options(load.address)]
        async with grpc.aio.insecure_channel(load.address, options=options) as channel:
            infer = channel.unary_unary(METHOD, None, None)
            await asyncio.wait_for(channel.channel_ready(), CONNECT_S)
            start = time.perf_counter()
            tasks = []
            for number, moment in enumerate(load.moments.tolist()):
                wait_s = moment - (time.perf_counter() - start)
                # Yields even where it is late, so that answers are read; but not for each of many that are held back.
                if wait_s > 0 or number % _TOGETHER == 0:
                    await asyncio.sleep(max(0.0, wait_s))
                self._sent[number] = time.perf_counter() - start
                if not (place := self._enter()):
                    self._fates[number] = Fate.HELD_BACK
                    continue
                tasks.append(asyncio.create_task(self._one(infer, requests[number % len(requests)], number, place)))
            probes = [await self._probe(infer, number, time.perf_counter()) for number in range(load.probes)]
            await asyncio.gather(*tasks)
        sent, took = np.array(probes).reshape(-1, 2).T
        return OpenOutcome(
            self._fates, self._sent, self._took, sent - (sent[0] if len(sent) else 0), took, self._errors
        )

    def _enter(self) -> int | Future[int]:
        """See `Throttle.enter`."""
        return self._throttle.enter(self._load.deadline_s) if self._load.throttled else 1

    async def _one(self, infer: Any, request: bytes, number: int, place: int | Future[int]) -> None:
        self._fates[number], self._took[number] = await self._sent_out(infer, request, place)

    async def _sent_out(self, infer: Any, request: bytes, place: int | Future[int]) -> tuple[Fate, float]:
        """What became of a request that is not held back at once, and how long that took with its wait, in seconds."""
        came, left_s = time.perf_counter(), self._load.deadline_s
        if not isinstance(place, int):
            try:
                place = await self._throttle.granted(place, left_s)
            except TimeoutError:
                return Fate.MISSED, time.perf_counter() - came
            left_s -= time.perf_counter() - came
            request = with_timeout(request, left_s)
        if not place:
            return Fate.HELD_BACK, time.perf_counter() - came
        start = time.perf_counter()
        try:
            await infer(request, timeout=left_s)
            fate = Fate.GOOD
        except grpc.RpcError as error:
            fate = _fate(error)
            if fate is Fate.FAILED and len(self._errors) < 5:
                self._errors.append(f"{error.code().name}: {error.details()}")
        end = time.perf_counter()
        if self._load.throttled:
            self._throttle.leave(place, end - start, refused=fate in (Fate.REFUSED, Fate.MISSED))
        return fate, end - came

    async def _probe(self, infer: Any, number: int, start: float) -> tuple[float, float]:
        fate, took_s = Fate.HELD_BACK, 0.0
        if place := self._enter():
            probe = with_timeout(self._load.probe, self._load.deadline_s)
            fate, took_s = await self._sent_out(infer, probe, place)
        await asyncio.sleep(max(0.0, self._load.probe_every_s - (time.perf_counter() - start)))
        return start, took_s if fate is Fate.GOOD else np.inf


def _fate(error: grpc.RpcError) -> Fate:
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Fate.MISSED
    return Fate.REFUSED if split_message(error.details() or "")[0] is ErrorKind.OVERLOADED else Fate.FAILED
