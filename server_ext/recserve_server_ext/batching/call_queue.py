"""Queue of batches that wait for a model: whenever it is free, waiting batches go to it together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar


class KeyedJob(Protocol):
    """A request that waits for a model."""

    @property
    def key(self) -> Hashable:
        """Requests with equal keys can go to the model in one call."""
        ...


J = TypeVar("J", bound=KeyedJob)


class Batch(NamedTuple, Generic[J]):
    """Requests that were accepted together, and have the same key.

    Attributes:
        jobs: At least one request.
        since_ns: Time when they began to wait, in nanoseconds.
    """

    jobs: Sequence[J]
    since_ns: int


B = TypeVar("B")
#: Calls the model for some batches, calls the given function when the model is free, and goes on. Raises nothing.
Run = Callable[[list[B], Callable[[], None]], None]


class CallQueue(Generic[J]):
    """Hands batches to a model, as many together as wait: large calls cost less for each request."""

    def __init__(self, run: Run[Batch[J]], *, at_once: int, max_batch: int) -> None:
        """
        Args:
            run: Processes batches; called by threads of the queue.
            at_once: Concurrent calls to the model.
            max_batch: Most requests in one call; a larger batch goes alone.
        """
        self._run = run
        self._free = at_once
        self._max_batch = max_batch
        self._waiting: deque[Batch[J]] = deque()
        self._count = 0
        self._changed = threading.Condition()
        self._is_closed = False
        # One thread more than calls: it processes results while the other threads wait for the model.
        self._threads = [threading.Thread(target=self._work, name=f"call {n}", daemon=True) for n in range(at_once + 1)]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Number of requests that wait for the model; any thread may ask."""
        return self._count

    def put(self, batch: Batch[J]) -> None:
        """Add a batch; an admission bounds how much waits."""
        size = len(batch.jobs)
        with self._changed:
            self._waiting.append(batch)
            self._count += size
            self._changed.notify_all()

    def close(self) -> None:
        """Wait until everything is answered."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while batches := self._take():
            self._run(batches, self._release)

    def _take(self) -> list[Batch[J]]:
        """Wait for the model, and take the batches for its next call; empty when the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: (self._free and self._waiting) or (self._is_closed and not self._waiting))
            if not self._waiting:
                return []
            taken: list[Batch[J]] = []
            size = 0
            while self._waiting and self._fits(taken, size):
                taken.append(self._waiting.popleft())
                size += len(taken[-1].jobs)
            self._count -= size
            self._free -= 1
            self._changed.notify_all()
            return taken

    def _fits(self, taken: list[Batch[J]], size: int) -> bool:
        jobs = self._waiting[0].jobs
        return not taken or (size + len(jobs) <= self._max_batch and jobs[0].key == taken[0].jobs[0].key)

    def _release(self) -> None:
        with self._changed:
            self._free += 1
            self._changed.notify_all()
