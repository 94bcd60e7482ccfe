"""Group commit: what several threads want to write at the same time goes into one transaction."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Generic, TypeVar

Work = TypeVar("Work")
Answer = TypeVar("Answer")


class QueueFullError(Exception):
    """No room came free in the queue in time."""


class GroupCommit(Generic[Work, Answer]):
    """Runs a commit for groups of calls.

    There is no thread of its own. One of the waiting callers leads: it commits what waits, first come first, until its
    own work is done, and hands the lead to another. While a commit runs, the next group gathers.
    """

    def __init__(
        self, commit: Callable[[list[Work]], Sequence[Answer]], *, group: int, queue: int, wait_s: float
    ) -> None:
        """
        Args:
            commit: Writes in one transaction; returns an answer for each, in order. When it raises, nothing is written.
            group: Most pieces of work of a commit, and of a call.
            queue: Most pieces of work that wait, at least `group`; a call waits for room.
            wait_s: How long a call waits for room.
        """
        self._commit = commit
        self._group = group
        self._queue = queue
        self._wait_s = wait_s
        self._changed = threading.Condition()
        self._calls: deque[tuple[Sequence[Work], Future[list[Answer]]]] = deque()
        self._size = 0
        self._running = 0
        self._is_led = False

    @property
    def waiting(self) -> int:
        """Pieces of work without an answer yet: those that wait, and those of the running commit."""
        return self._size + self._running

    def __call__(self, works: Sequence[Work]) -> list[Answer]:
        """Write, and return the answers when it is committed.

        Raises:
            QueueFullError: The queue stayed full.
            Exception: What the commit of the group raised; every call of the group gets it.
        """
        if not works:
            return []
        if len(works) > self._group:
            raise ValueError(f"{len(works)} pieces of work in one call; at most {self._group} go into one commit")
        own: Future[list[Answer]] = Future()
        with self._changed:
            if not self._changed.wait_for(lambda: self._size + len(works) <= self._queue, self._wait_s):
                raise QueueFullError
            self._size += len(works)
            self._calls.append((works, own))
            self._changed.wait_for(lambda: own.done() or not self._is_led)
            leads = not own.done()
            self._is_led |= leads
        if leads:
            self._lead(own)
        return own.result()

    def _lead(self, own: Future[list[Answer]]) -> None:
        try:
            while not own.done():
                self._run(self._next())
        finally:
            with self._changed:
                self._is_led = False
                self._changed.notify_all()

    def _next(self) -> list[tuple[Sequence[Work], Future[list[Answer]]]]:
        with self._changed:
            calls = [self._calls.popleft()]
            size = len(calls[0][0])
            while self._calls and size + len(self._calls[0][0]) <= self._group:
                calls.append(self._calls.popleft())
                size += len(calls[-1][0])
            self._size -= size
            self._running = size
            self._changed.notify_all()
            return calls

    def _run(self, calls: list[tuple[Sequence[Work], Future[list[Answer]]]]) -> None:
        try:
            answers = iter(self._commit([work for works, _ in calls for work in works]))
            for works, done in calls:
                done.set_result(list(islice(answers, len(works))))
        except BaseException as error:
            for _, done in calls:
                done.set_exception(error)
        with self._changed:
            self._running = 0
            self._changed.notify_all()
