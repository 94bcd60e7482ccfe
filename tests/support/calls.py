"""A request as Triton would hand it over."""

from __future__ import annotations

import queue
from collections.abc import Callable

from recserve_client.contract import RequestError
from recserve_server_ext.batching.admission import NO_DEADLINE
from recserve_server_ext.batching.batcher import Answer

_LIMIT_S = 60.0


class Call:
    """A request, and what it was answered later; a test says when its caller gives up."""

    def __init__(self, raw: bytes | RequestError, deadline_ns: int = NO_DEADLINE) -> None:
        self.deadline_ns = deadline_ns
        self._raw = raw
        self._sent: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self.answers: list[Answer] = []
        self.gave_up = False

    def read(self) -> bytes:
        if isinstance(self._raw, RequestError):
            raise self._raw
        return self._raw

    def defer(self) -> Callable[[Answer], None]:
        def send(answer: Answer) -> None:
            self.answers.append(answer)
            self._sent.put(answer)

        return send

    def is_cancelled(self) -> bool:
        return self.gave_up

    def answer(self) -> Answer:
        """Wait for what is sent later."""
        return self._sent.get(timeout=_LIMIT_S)
