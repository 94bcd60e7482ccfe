"""Callers of `recommend` that go on through errors, while a test harms the server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from support.wire import Wire


@contextmanager
def load(address: str, body: dict[str, object]) -> Iterator[list[float]]:
    """Callers that go on through errors; yields the moments of good answers."""
    stop, answered = threading.Event(), list[float]()

    def call() -> None:
        wire = Wire(address)
        while not stop.is_set():
            try:
                wire.ask("recommend", body, timeout_s=2)
                answered.append(time.monotonic())
            except grpc.RpcError:
                stop.wait(0.02)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield answered
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def wait_answer(answered: list[float], after: float, timeout_s: float = 30) -> float:
    """The moment of the first good answer after a moment."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if later := [moment for moment in list(answered) if moment > after]:
            return min(later)
        threading.Event().wait(0.02)
    raise AssertionError(f"no answer within {timeout_s} s")
