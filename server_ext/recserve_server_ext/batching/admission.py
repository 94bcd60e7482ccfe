"""Admission: which requests are worked on, and which are refused at once because the work would come too late.

A request should spend only a small share of its time in a queue: more waiting only makes every answer later, since a
model with a queue is busy already. The number of requests that fit is found by additive increase and multiplicative
decrease (AIMD): Chiu and Jain, "Analysis of the increase and decrease algorithms for congestion avoidance in computer
networks", 1989. The sign of congestion is the wait in the queue, as in Zhou et al., "Overload control for scaling
WeChat microservices", SoCC 2018. A request that would wait beyond its deadline, by the measured rate, is refused.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from recserve_client.contract import RequestError, overloaded

#: A request without a deadline may be answered at any time.
NO_DEADLINE: Final = 2**63 - 1
#: Time of a request without a deadline.
_PATIENCE_NS: Final = 60_000_000_000
#: Factor on the limit after a call whose oldest request waited too long.
_DECREASE: Final = 0.9
#: Weight of the newest call in the measured rate.
_NEWEST: Final = 0.2
_MILLISECOND_NS: Final = 1_000_000


class QueueBounds(NamedTuple):
    """Bounds of the number of requests in one queue.

    Attributes:
        share: Greatest share of its time that a request waits without congestion.
        first: Requests at first.
        least: Requests that are always admitted: one waits while another one is worked on.
        most: Requests at most.
    """

    share: float = 0.1
    first: float = 64.0
    least: float = 2.0
    most: float = 1024.0


#: A queue where nothing is said in particular.
QUEUE: Final = QueueBounds()
#: What a service works on before Triton hands over more. A refusal comes when that is done, so it must be little. But
#: 64 callers, as many as a client has at a time, are never too many.
OWN_QUEUE: Final = QueueBounds(0.02, 64.0, 64.0)
Reason = Literal["full", "late", "expired"]
_WHY: Final[dict[Reason, str]] = {
    "full": "the queue is full",
    "late": "the wait would be longer than the deadline allows",
    "expired": "the deadline passed in the queue",
}


def waited_share(since_ns: int, start_ns: int, deadline_ns: int) -> float:
    """Share of the time of a request that it waited: from its arrival to the start of the work."""
    return (start_ns - since_ns) / max(1, min(deadline_ns - since_ns, _PATIENCE_NS))


class AdmissionCounts(NamedTuple):
    """What an admission knows and has done.

    Attributes:
        waiting: Requests that wait or are worked on.
        limit: Most of them at the moment.
        full: Requests refused because so many were there.
        late: Requests refused because they would have waited beyond their deadlines.
        expired: Requests dropped because their deadlines passed while they waited.
    """

    waiting: int = 0
    limit: float = QUEUE.first
    full: int = 0
    late: int = 0
    expired: int = 0


class Admission:
    """Admits requests to one queue; thread-safe. The size of a request is what it costs: texts, or 1."""

    def __init__(self, what: str, bounds: QueueBounds = QUEUE, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        """
        Args:
            what: Names the queue in messages.
            bounds: Bounds of the queue.
            clock_ns: Monotonic clock, in nanoseconds.
        """
        self._what = what
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._requests = self._size = 0
        self._bounds = bounds
        self._limit = bounds.first
        self._was_full = False
        self._ns_per_size = 0.0
        self._shed: dict[Reason, int] = {"full": 0, "late": 0, "expired": 0}

    @property
    def counts(self) -> AdmissionCounts:
        """The counts so far."""
        with self._lock:
            return AdmissionCounts(self._requests, self._limit, **self._shed)

    def admit(self, size: int, deadline_ns: int) -> RequestError | None:
        """Take a request in, or return its refusal.

        Args:
            size: What it costs.
            deadline_ns: Moment by the clock when its caller gives up.
        """
        with self._lock:
            wait_ns = self._ns_per_size * self._size
            if self._requests >= math.floor(self._limit):
                self._was_full = True
                return self._refuse("full", wait_ns)
            if self._clock_ns() + wait_ns + self._ns_per_size * size > deadline_ns:
                return self._refuse("late", wait_ns)
            self._enter(size)
        return None

    def enter(self, size: int) -> None:
        """Take in a request that was admitted elsewhere, whatever the limit."""
        with self._lock:
            self._enter(size)

    def leave(self, size: int) -> None:
        """Let a request go that was taken in: it is done, or failed."""
        with self._lock:
            self._requests -= 1
            self._size -= size

    def expire(self) -> RequestError:
        """Count a request whose deadline passed while it waited; returns its refusal."""
        with self._lock:
            return self._refuse("expired", self._ns_per_size * self._size)

    def measure(self, size: int, took_ns: int, waited_share: float) -> None:
        """Learn from work that was done.

        Args:
            size: Sizes of its requests together.
            took_ns: Duration of the work.
            waited_share: Greatest share of their times that its requests waited before the work began.
        """
        with self._lock:
            newest = took_ns / max(1, size)
            known = self._ns_per_size or newest
            self._ns_per_size = known + _NEWEST * (newest - known)
            if waited_share > self._bounds.share:
                self._limit = max(self._bounds.least, self._limit * _DECREASE)
            elif self._was_full:
                self._limit = min(self._bounds.most, self._limit + 1)
            self._was_full = False

    def _refuse(self, reason: Reason, wait_ns: float) -> RequestError:
        self._shed[reason] += 1
        why = f"{_WHY[reason]} ({self._requests} requests wait for {self._what})"
        return overloaded(why, retry_after_ms=max(1, math.ceil(wait_ns / _MILLISECOND_NS)))

    def _enter(self, size: int) -> None:
        self._requests += 1
        self._size += size
