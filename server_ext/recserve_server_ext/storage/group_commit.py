"""Group commit: what several threads want to write at the same time goes into one transaction."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Work = TypeVar("Work")
Answer = TypeVar("Answer")


class QueueFullError(Exception):
    """No room came free in the queue in time."""


class GroupCommit(Generic[Work, Answer]):
    """Runs a commit for groups of calls.

    There is no thread of its own: of the waiting callers one leads, commits what is waiting, first come first, until
    its own is among it, and then hands the lead to another. While a commit runs the next group gathers.
    """

    def __init__(
        self, commit: Callable[[list[Work]], Sequence[Answer]], *, group: int, queue: int, wait_s: float
    ) -> None:
        """
        Args:
            commit: Writes in one transaction; returns an answer for each, in order. When it raises, nothing is written.
            group: Pieces of work in one commit at most; also in one call.
            queue: Pieces of work that may wait; a call waits for room. At least `group`.
            wait_s: How long a call waits for room.
        """
        self._commit = commit
        self._group = group
        self._queue = queue
        self._wait_s = wait_s
        self._changed = threading.Condition()
        self._waiting: deque[_Call[Work, Answer]] = deque()
        self._size = 0
        self._running = 0
        self._is_led = False

    @property
    def waiting(self) -> int:
        """Pieces of work without an answer yet: those that wait, and those of the commit that runs."""
        return self._size + self._running

    def __call__(self, works: Sequence[Work]) -> list[Answer]:
        """Write, and return when it is committed.

        Raises:
            QueueFullError: The queue stayed full.
            Exception: Whatever the commit of the group raised; every call in the group gets it.
        """
        if not works:
            return []
        if len(works) > self._group:
            raise ValueError(f"{len(works)} pieces of work in one call; at most {self._group} go into one commit")
        call: _Call[Work, Answer] = _Call(list(works))
        with self._changed:
            if not self._changed.wait_for(lambda: self._size + len(works) <= self._queue, self._wait_s):
                raise QueueFullError
            self._size += len(works)
            self._waiting.append(call)
            self._changed.wait_for(lambda: call.is_done or not self._is_led)
            self._is_led = self._is_led or not call.is_done
        if not call.is_done:
            self._lead(call)
        if call.error is not None:
            raise call.error
        return call.answers

    def _lead(self, own: _Call[Work, Answer]) -> None:
        try:
            while not own.is_done:
                self._run(self._next())
        finally:
            with self._changed:
                self._is_led = False
                self._changed.notify_all()

    def _next(self) -> list[_Call[Work, Answer]]:
        with self._changed:
            calls = [self._waiting.popleft()]
            size = len(calls[0].works)
            while self._waiting and size + len(self._waiting[0].works) <= self._group:
                calls.append(self._waiting.popleft())
                size += len(calls[-1].works)
            self._size -= size
            self._running = size
            self._changed.notify_all()
            return calls

    def _run(self, calls: list[_Call[Work, Answer]]) -> None:
        error: BaseException | None = None
        answers: Sequence[Answer] = ()
        try:
            answers = self._commit([work for call in calls for work in call.works])
        except BaseException as raised:
            error = raised
        with self._changed:
            self._running = 0
            start = 0
            for call in calls:
                call.answers = list(answers[start : start + len(call.works)])
                start += len(call.works)
                call.error = error
                call.is_done = True
            self._changed.notify_all()


class _Call(Generic[Work, Answer]):
    """One call: its work, and what became of it."""

    def __init__(self, works: list[Work]) -> None:
        self.works = works
        self.answers: list[Answer] = []
        self.error: BaseException | None = None
        self.is_done = False
