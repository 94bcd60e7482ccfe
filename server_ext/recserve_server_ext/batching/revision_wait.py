"""Queue of requests that wait until the catalogue has the revision they ask for; bounded in number, size and time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from recserve_client.contract import ErrorKind, RequestError

Answer = bytes | RequestError
#: Size of all packed requests that wait in one queue.
MAX_BYTES: Final = 64 * 2**20
#: Time between two checks of the catalogue; a batch that notices a change first wakes the queue.
_PAUSE_S: Final = 0.02
#: Time between two checks of cancelled callers; each check costs a round trip to the server process.
_CANCEL_S: Final = 0.2


class NotYetError(Exception):
    """A request asks for a revision of the catalogue that is not served yet."""

    def __init__(self, wanted: int, served: Callable[[], int]) -> None:
        super().__init__(wanted)
        self.wanted = wanted
        self.served = served

    @property
    def is_served(self) -> bool:
        """Whether the revision is served by now."""
        return self.served() >= self.wanted

    def refusal(self, kind: ErrorKind, why: str) -> RequestError:
        """The error for the caller."""
        return RequestError(kind, f"min_revision is {self.wanted}, the catalogue is at revision {self.served()}: {why}")


class Caller(Protocol):
    """A call that can be left open; see `recserve_server_ext.batching.batcher.Call`.

    Attributes:
        deadline_ns: Moment when the caller gives up, by `time.monotonic_ns`.
    """

    deadline_ns: int

    def defer(self) -> Callable[[Answer], None]:
        """Leave the call open; returns a function that sends the answer."""
        ...

    def is_cancelled(self) -> bool:
        """Whether the caller of a deferred call gave up."""
        ...


class WaitingRequest(NamedTuple):
    """A request that waits for a revision.

    Attributes:
        raw: The packed request.
        caller: The open call.
        send: Sends the answer.
        reason: The revision that it waits for.
        since: Time of its arrival, by the queue's clock.
    """

    raw: bytes
    caller: Caller
    send: Callable[[Answer], None]
    reason: NotYetError
    since: float


class WaitCounts(NamedTuple):
    """Numbers of requests that asked for a revision before it was served.

    Attributes:
        waiting: Requests that wait now.
        admitted: Requests that began to wait.
        expired: Requests refused after the waiting time.
        cancelled: Requests whose callers gave up.
        full: Requests refused because the queue was full.
    """

    waiting: int = 0
    admitted: int = 0
    expired: int = 0
    cancelled: int = 0
    full: int = 0


class RevisionWaitQueue:
    """A thread-safe queue of requests that wait for a revision."""

    def __init__(
        self,
        wait_s: float,
        max_requests: int,
        *,
        show: Callable[[WaitCounts], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            wait_s: Longest waiting time; 0 refuses requests at once.
            max_requests: Most requests that wait.
            show: Called with the counts whenever they change.
            clock: Monotonic clock, in seconds.
        """
        self._wait_s = wait_s
        self._max_requests = max_requests
        self._show = show
        self._clock = clock
        self._waiting: list[WaitingRequest] = []
        self._bytes = 0
        self._counts = WaitCounts()
        self._changed = threading.Condition()
        self._is_woken = False
        self._is_closed = False
        self._next_cancel_check = 0.0

    def admit(self, raw: bytes, caller: Caller, reason: NotYetError) -> RequestError | None:
        """Add a request; returns its refusal where it may not wait."""
        with self._changed:
            if self._is_closed or self._wait_s <= 0:
                self._count(expired=1)
                return self._late(reason)
            if len(self._waiting) >= self._max_requests or self._bytes + len(raw) > MAX_BYTES:
                self._count(full=1)
                why = f"{len(self._waiting)} requests wait already (limits.revision_waiting); try again"
                return reason.refusal(ErrorKind.UNAVAILABLE, why)
            self._waiting.append(WaitingRequest(raw, caller, caller.defer(), reason, self._clock()))
            self._bytes += len(raw)
            self._count(admitted=1)
            self._changed.notify()
        return None

    def wake(self) -> None:
        """End `wait`, since the catalogue may have changed."""
        if self._waiting:
            with self._changed:
                self._is_woken = True
                self._changed.notify()

    def wait(self) -> bool:
        """Block until it is time to check the catalogue again; returns False when the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            self._changed.wait_for(lambda: self._is_woken or self._is_closed, _PAUSE_S)
            self._is_woken = False
            return not self._is_closed

    def ready(self) -> list[WaitingRequest]:
        """Remove and return the requests whose revision is served."""
        with self._changed:
            return self._take([waiting for waiting in self._waiting if waiting.reason.is_served])

    def expire(self) -> None:
        """Refuse requests whose waiting time is over or whose callers gave up."""
        with self._changed:
            now = self._clock()
            late = self._take([waiting for waiting in self._waiting if now - waiting.since >= self._wait_s])
            self._count(expired=len(late))
            left = list(self._waiting) if now >= self._next_cancel_check else []
            self._next_cancel_check = now + _CANCEL_S if left else self._next_cancel_check
        for waiting in late:
            waiting.send(self._late(waiting.reason))
        if cancelled := [waiting for waiting in left if waiting.caller.is_cancelled()]:
            with self._changed:
                cancelled = self._take(cancelled)
                self._count(cancelled=len(cancelled))
            for waiting in cancelled:
                waiting.send(waiting.reason.refusal(ErrorKind.STALE_REVISION, "the caller gave up"))

    def close(self) -> None:
        """Refuse all waiting requests, and all later ones."""
        with self._changed:
            self._is_closed = True
            left = self._take(list(self._waiting))
            self._changed.notify_all()
        for waiting in left:
            waiting.send(waiting.reason.refusal(ErrorKind.UNAVAILABLE, "the server is shutting down; try again"))

    def _take(self, chosen: list[WaitingRequest]) -> list[WaitingRequest]:
        """Remove and return requests, without those that another thread has removed meanwhile."""
        ids = set(map(id, chosen))
        taken = [waiting for waiting in self._waiting if id(waiting) in ids]
        if taken:
            self._waiting = [waiting for waiting in self._waiting if id(waiting) not in ids]
            self._bytes -= sum(len(waiting.raw) for waiting in taken)
            self._count()
        return taken

    def _late(self, reason: NotYetError) -> RequestError:
        return reason.refusal(
            ErrorKind.STALE_REVISION, f"waited {1000 * self._wait_s:,.0f} ms (limits.revision_wait_ms)"
        )

    def _count(self, admitted: int = 0, expired: int = 0, cancelled: int = 0, full: int = 0) -> None:
        before, new = self._counts, WaitCounts(len(self._waiting), admitted, expired, cancelled, full)
        self._counts = WaitCounts(new.waiting, *(old + more for old, more in zip(before[1:], new[1:], strict=True)))
        if self._counts != before:
            self._show(self._counts)
