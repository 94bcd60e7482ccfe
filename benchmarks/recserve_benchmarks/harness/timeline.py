"""A load that keeps every latency with its moment, in a process of its own.

Run as ``python -m recserve_benchmarks.harness.timeline``; reads a JSON object from standard input and ends when the
file `stop` appears, writing its requests to `out`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import grpc
import msgspec
import numpy as np

from recserve_benchmarks.harness.load import METHOD, read_blobs


class Timeline(msgspec.Struct, frozen=True):
    """What to send and until when.

    Attributes:
        address: host:port.
        requests: File of serialised requests, sent over and over.
        callers: Requests under way at a time.
        stop: Path of a file whose appearance ends it.
        out: NumPy file: [requests, 3] moment of the answer (seconds since 1970), milliseconds it took, 1 = failed.
    """

    address: str
    requests: str
    callers: int
    stop: str
    out: str


async def _run(load: Timeline) -> None:
    requests = list(read_blobs(Path(load.requests)))
    stop = Path(load.stop)
    seen: list[tuple[float, float, float]] = []
    async with grpc.aio.insecure_channel(load.address) as channel:
        infer = channel.unary_unary(METHOD, None, None)

        async def caller(number: int) -> None:
            while not stop.exists():
                start = time.perf_counter()
                failed = 0.0
                try:
                    await infer(requests[number % len(requests)], timeout=60)
                except grpc.RpcError:
                    failed = 1.0
                seen.append((time.time(), (time.perf_counter() - start) * 1000, failed))
                number += load.callers

        await asyncio.gather(*(caller(number) for number in range(load.callers)))
    np.save(load.out, np.array(seen))


if __name__ == "__main__":
    asyncio.run(_run(msgspec.json.decode(sys.stdin.buffer.read(), type=Timeline)))
