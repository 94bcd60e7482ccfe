"""Requests that came before the revision they ask for: they wait, a bounded number of them, for a bounded time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from recserve_client.contract import ErrorKind, RequestError

Answer = bytes | RequestError
#: Of the packed requests that wait.
_MOST_BYTES: Final = 64 * 2**20
#: Between two looks whether the catalogue has changed; a batch that notices it first wakes them at once.
_PAUSE_S: Final = 0.02
#: Between two looks whose callers gave up: asking costs a round trip to the server's process for each.
_CANCEL_S: Final = 0.2


class NotYetError(Exception):
    """A request asks for a revision of the catalogue that is not served yet."""

    def __init__(self, wanted: int, served: Callable[[], int]) -> None:
        """
        Args:
            wanted: `min_revision`.
            served: The revision of the newest view that the model has seen.
        """
        super().__init__(wanted)
        self.wanted = wanted
        self.served = served

    @property
    def is_here(self) -> bool:
        """Whether the request can be answered now."""
        return self.served() >= self.wanted

    def refusal(self, kind: ErrorKind, why: str) -> RequestError:
        """What the caller is told."""
        return RequestError(kind, f"min_revision is {self.wanted}, the catalogue is at revision {self.served()}: {why}")


class Caller(Protocol):
    """Who waits for an answer; see `recserve_server_ext.batching.batcher.Call`."""

    def defer(self) -> Callable[[Answer], None]:
        """Leave the call open; what comes back answers it."""
        ...

    def is_cancelled(self) -> bool:
        """Whether the caller of a deferred call gave up."""
        ...


class Waiting(NamedTuple):
    """A request that waits.

    Attributes:
        raw: Packed, as it came.
        caller: Whose it is.
        send: Answers it.
        reason: What it waits for.
        since: When it came, by the room's clock.
    """

    raw: bytes
    caller: Caller
    send: Callable[[Answer], None]
    reason: NotYetError
    since: float


class WaitCounts(NamedTuple):
    """How many requests wait, and of all that asked for a revision that was not there what became of them.

    Attributes:
        waiting: Now.
        admitted: That began to wait.
        expired: Refused when their time was over.
        cancelled: Given up by their callers.
        full: Refused at once, for want of room.
    """

    waiting: int = 0
    admitted: int = 0
    expired: int = 0
    cancelled: int = 0
    full: int = 0


class RevisionWaitQueue:
    """Holds the requests; safe to share between threads."""

    def __init__(
        self,
        wait_s: float,
        most: int,
        *,
        show: Callable[[WaitCounts], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            wait_s: How long a request waits; 0 = it is refused at once.
            most: Requests that may wait.
            show: Called with the counts whenever they change.
            clock: Seconds.
        """
        self._wait_s = wait_s
        self._most = most
        self._show = show
        self._clock = clock
        self._held: list[Waiting] = []
        self._bytes = 0
        self._counts = WaitCounts()
        self._changed = threading.Condition()
        self._is_woken = False
        self._is_closed = False
        self._ask_callers = 0.0

    def admit(self, raw: bytes, caller: Caller, reason: NotYetError) -> RequestError | None:
        """Let a request wait; or the refusal of one that may not."""
        with self._changed:
            if self._is_closed or self._wait_s <= 0:
                self._count(expired=1)
                return self._late(reason)
            if len(self._held) >= self._most or self._bytes + len(raw) > _MOST_BYTES:
                self._count(full=1)
                why = f"{len(self._held)} requests wait already (limits.revision_waiting); try again"
                return reason.refusal(ErrorKind.UNAVAILABLE, why)
            self._held.append(Waiting(raw, caller, caller.defer(), reason, self._clock()))
            self._bytes += len(raw)
            self._count(admitted=1)
            self._changed.notify()
        return None

    def wake(self) -> None:
        """The catalogue may have changed: whoever is in `wait` looks now."""
        if self._held:
            with self._changed:
                self._is_woken = True
                self._changed.notify()

    def wait(self) -> bool:
        """Return when it is time to look again; False = the room is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._held or self._is_closed)
            self._changed.wait_for(lambda: self._is_woken or self._is_closed, _PAUSE_S)
            self._is_woken = False
            return not self._is_closed

    def ready(self) -> list[Waiting]:
        """Those whose revision is here; they wait no longer."""
        with self._changed:
            return self._take([waiting for waiting in self._held if waiting.reason.is_here])

    def expire(self) -> None:
        """Answer those whose time is over or whose callers gave up."""
        with self._changed:
            now = self._clock()
            late = self._take([waiting for waiting in self._held if now - waiting.since >= self._wait_s])
            self._count(expired=len(late))
            left = list(self._held) if now >= self._ask_callers else []
            self._ask_callers = now + _CANCEL_S if left else self._ask_callers
        for waiting in late:
            waiting.send(self._late(waiting.reason))
        if gone := [waiting for waiting in left if waiting.caller.is_cancelled()]:
            with self._changed:
                gone = self._take(gone)
                self._count(cancelled=len(gone))
            for waiting in gone:
                waiting.send(waiting.reason.refusal(ErrorKind.STALE_REVISION, "the caller gave up"))

    def close(self) -> None:
        """Refuse all that wait, and whatever comes."""
        with self._changed:
            self._is_closed = True
            left = self._take(list(self._held))
            self._changed.notify_all()
        for waiting in left:
            waiting.send(waiting.reason.refusal(ErrorKind.UNAVAILABLE, "the server ends; try again"))

    def _take(self, taken: list[Waiting]) -> list[Waiting]:
        """Remove some; those that another thread has removed meanwhile are left out."""
        chosen = set(map(id, taken))
        found = [waiting for waiting in self._held if id(waiting) in chosen]
        if found:
            self._held = [waiting for waiting in self._held if id(waiting) not in chosen]
            self._bytes -= sum(len(waiting.raw) for waiting in found)
            self._count()
        return found

    def _late(self, reason: NotYetError) -> RequestError:
        return reason.refusal(
            ErrorKind.STALE_REVISION, f"waited {1000 * self._wait_s:,.0f} ms (limits.revision_wait_ms)"
        )

    def _count(self, admitted: int = 0, expired: int = 0, cancelled: int = 0, full: int = 0) -> None:
        before, new = self._counts, WaitCounts(len(self._held), admitted, expired, cancelled, full)
        self._counts = WaitCounts(new.waiting, *(old + more for old, more in zip(before[1:], new[1:], strict=True)))
        if self._counts != before:
            self._show(self._counts)
