"""Batches that wait for a model: which go together, and how many at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

from msgspec import Struct

from recserve_server_ext.batching.call_queue import Batch, CallQueue

LONG_S = 30


class Job(Struct):
    name: str
    key: str = "one"


class Encoder:
    """An encoder that works on what it got until it is told to go on."""

    def __init__(self, *, at_once: int = 1, max_batch: int = 4) -> None:
        self.got: SimpleQueue[list[str]] = SimpleQueue()
        self.go_on = threading.Semaphore(0)
        self.queue = CallQueue[Job](self._run, at_once=at_once, max_batch=max_batch)

    def put(self, *names: str, encoder: str = "one") -> None:
        self.queue.put(Batch([Job(name, encoder) for name in names], 0))

    def next(self) -> list[str]:
        return self.got.get(timeout=LONG_S)

    def finish(self) -> None:
        self.go_on.release(100)
        self.queue.close()

    def _run(self, batches: list[Batch[Job]], give_back: Callable[[], None]) -> None:
        self.got.put([job.name for batch in batches for job in batch.jobs])
        assert self.go_on.acquire(timeout=LONG_S)
        give_back()


def test_what_waits_goes_together_in_its_order() -> None:
    encoder = Encoder()
    encoder.put("a")
    assert encoder.next() == ["a"]
    for name in "bcd":
        encoder.put(name)
    assert encoder.got.empty()
    assert encoder.queue.waiting == 3
    encoder.go_on.release()
    assert encoder.next() == ["b", "c", "d"]
    assert encoder.queue.waiting == 0
    encoder.finish()
    assert encoder.got.empty()


def test_no_more_go_together_than_may_and_a_larger_batch_goes_alone() -> None:
    encoder = Encoder(max_batch=2)
    encoder.put("a")
    assert encoder.next() == ["a"]

    def put() -> None:
        for names in ("bc", "def", "g", "h"):
            encoder.put(*names)

    waiting = threading.Thread(target=put)
    waiting.start()
    found = []
    for _ in range(3):
        encoder.go_on.release()
        found.append(encoder.next())
    waiting.join(LONG_S)
    encoder.finish()
    while not encoder.got.empty():
        found.append(encoder.next())
    assert found[:2] == [["b", "c"], ["d", "e", "f"]]
    assert [name for names in found[2:] for name in names] == ["g", "h"]


def test_batches_of_different_encoders_go_apart() -> None:
    encoder = Encoder()
    encoder.put("a")
    assert encoder.next() == ["a"]
    encoder.put("b")
    encoder.put("c", encoder="other")
    encoder.put("d", encoder="other")
    encoder.go_on.release(2)
    assert [encoder.next(), encoder.next()] == [["b"], ["c", "d"]]
    encoder.finish()


def test_two_at_once_when_so_many_may() -> None:
    encoder = Encoder(at_once=2)
    encoder.put("a")
    assert encoder.next() == ["a"]
    encoder.put("b")
    assert encoder.next() == ["b"]
    encoder.put("c")
    encoder.put("d")
    assert encoder.got.empty()
    encoder.finish()
    assert encoder.next() == ["c", "d"]
