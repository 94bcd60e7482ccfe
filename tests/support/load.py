"""Clients that record interactions of their own until they are told to stop, whatever happens to the server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from recserve_client import Client, ClientOptions, interaction
from recserve_client.errors import RecserveError

LONG_S = 60.0
BATCH = 20


class Recording:
    """A thread for each address; a batch that fails is sent again, as its outcome is not known.

    Attributes:
        acknowledged: Event ids, each once.
        refused: Errors so far.
    """

    def __init__(self, addresses: Sequence[str], deadline_s: float = 10.0) -> None:
        self.acknowledged: list[str] = []
        self.refused: list[RecserveError] = []
        self._options = ClientOptions(tries=1, deadline_s=deadline_s)
        self._addresses = addresses
        self._is_over = False
        self._changed = threading.Condition()
        self._pool = ThreadPoolExecutor(len(addresses))

    def __enter__(self) -> Self:
        self._running = [self._pool.submit(self._run, *numbered) for numbered in enumerate(self._addresses)]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._is_over = True
        self._pool.shutdown()
        if kind is None:
            for one in self._running:
                one.result()

    def wait(self, until: Callable[[], bool]) -> None:
        """Wait until something is so; it is looked at whenever an answer came."""
        with self._changed:
            assert self._changed.wait_for(lambda: until() or any(one.done() for one in self._running), LONG_S)
            assert until()

    def _run(self, thread: int, address: str) -> None:
        number = 0
        with Client(address, self._options) as client:
            while not self._is_over:
                ids = [f"load{thread}-{number}-{k}" for k in range(BATCH)]
                batch = [interaction(f"load{thread}", "click", one, event_id=one) for one in ids]
                try:
                    statuses = {result.status for result in client.interactions.record(batch).results}
                except RecserveError as error:
                    with self._changed:
                        self.refused.append(error)
                        self._changed.notify_all()
                        self._changed.wait(0.02)
                    continue
                assert statuses <= {"recorded", "duplicate"}
                with self._changed:
                    self.acknowledged += ids
                    self._changed.notify_all()
                number += 1
