"""The load generator, a process of its own: callers in a closed loop over prepared requests.

Run as ``python -m recserve_benchmarks.harness.load``; it reads a JSON object from standard input and answers with one.
"""

from __future__ import annotations

import asyncio
import json
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import grpc
import msgspec
from hdrh.histogram import HdrHistogram

from recserve_benchmarks.errors import BenchmarkError

#: What a request is sent to.
METHOD = "/inference.GRPCInferenceService/ModelInfer"
_HIGHEST_US = 60_000_000
_LONGEST_S = 600
_CONNECT_S = 30


class Load(msgspec.Struct, frozen=True):
    """What to send.

    Attributes:
        address: host:port.
        requests: File of serialised requests, each after its length.
        callers: Requests under way at a time.
        answers: File for the serialised answers; none = they are dropped.
    """

    address: str
    requests: str
    callers: int
    answers: str | None = None


class Outcome(msgspec.Struct, frozen=True):
    """What came of it; latencies in milliseconds.

    Attributes:
        users: Good answers.
        errors: Failed requests, by status.
        wall_s: From the first request to the last answer.
        p50_ms: Median latency.
        p99_ms: 99th percentile.
    """

    users: int
    errors: dict[str, int]
    wall_s: float
    p50_ms: float
    p99_ms: float

    @property
    def users_per_s(self) -> float:
        """Good answers a second."""
        return self.users / self.wall_s


def generate(address: str, requests: Iterable[bytes], callers: int, *, answers: Path | None = None) -> Outcome:
    """Send the requests from another process and wait for its outcome.

    Args:
        address: host:port.
        requests: Serialised ModelInferRequests; each is sent once.
        callers: Requests under way at a time.
        answers: Where to put the serialised answers, in the order of the requests, each after its length.

    Raises:
        BenchmarkError: The generator failed or did not end within ten minutes.
    """
    with tempfile.NamedTemporaryFile(suffix=".requests") as file:
        write_blobs(Path(file.name), requests)
        load = Load(address, file.name, callers, str(answers) if answers is not None else None)
        try:
            result = subprocess.run(
                [sys.executable, "-m", "recserve_benchmarks.harness.load"],
                input=msgspec.json.encode(load),
                stdout=subprocess.PIPE,
                check=True,
                timeout=_LONGEST_S,
            )
        except subprocess.SubprocessError as error:
            raise BenchmarkError(f"the load generator failed ({error}); its error is above") from error
    return msgspec.json.decode(result.stdout, type=Outcome)


def good(outcome: Outcome) -> Outcome:
    """The outcome, if no request failed.

    Raises:
        BenchmarkError: Some did.
    """
    if outcome.errors:
        raise BenchmarkError(f"requests failed under load: {json.dumps(outcome.errors)}")
    return outcome


def write_blobs(path: Path, blobs: Iterable[bytes]) -> None:
    """Write blobs as `read_blobs` reads them."""
    with path.open("wb") as file:
        for blob in blobs:
            file.write(struct.pack("<I", len(blob)) + blob)


def read_blobs(path: Path) -> Iterator[bytes]:
    """The blobs of a file, each after its length."""
    raw = memoryview(path.read_bytes())
    start = 0
    while start < len(raw):
        (size,) = struct.unpack_from("<I", raw, start)
        yield bytes(raw[start + 4 : start + 4 + size])
        start += 4 + size


async def _send(load: Load) -> Outcome:
    latencies = HdrHistogram(1, _HIGHEST_US, 3)
    errors: dict[str, int] = {}
    requests = list(read_blobs(Path(load.requests)))
    answers: list[bytes] = [b""] * len(requests)
    numbered = iter(enumerate(requests))
    async with grpc.aio.insecure_channel(load.address, options=[("grpc.max_receive_message_length", -1)]) as channel:
        infer = channel.unary_unary(METHOD, None, None)
        await asyncio.wait_for(channel.channel_ready(), _CONNECT_S)

        async def caller() -> None:
            for number, request in numbered:
                start = time.perf_counter()
                try:
                    answer = await infer(request)
                except grpc.RpcError as error:
                    errors[error.code().name] = errors.get(error.code().name, 0) + 1
                    continue
                latencies.record_value(max(1, int((time.perf_counter() - start) * 1e6)))
                if load.answers is not None:
                    answers[number] = answer

        start = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(load.callers)))
        wall_s = time.perf_counter() - start
    if load.answers is not None:
        write_blobs(Path(load.answers), answers)
    p50_ms, p99_ms = (latencies.get_value_at_percentile(percentile) / 1000 for percentile in (50, 99))
    return Outcome(latencies.total_count, errors, wall_s, p50_ms, p99_ms)


if __name__ == "__main__":
    outcome = asyncio.run(_send(msgspec.json.decode(sys.stdin.buffer.read(), type=Load)))
    json.dump(msgspec.to_builtins(outcome), sys.stdout)
