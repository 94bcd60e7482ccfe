"""What a client spares an overloaded server: retries beyond a budget, and calls that would be refused."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, NamedTuple

#: Tokens, or refusals, that a client has in reserve: one that calls now and then is never held back.
_RESERVE: Final = 10.0


class RetryBudget:
    """Retries that a client may make: a share of its calls, and ten in reserve; thread-safe.

    As in the retry throttling of gRPC (proposal A6), with tokens that calls earn and retries spend.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._tokens = _RESERVE
        self._lock = threading.Lock()

    def earn(self) -> None:
        """Count a call."""
        with self._lock:
            self._tokens = min(_RESERVE, self._tokens + self._share)

    def spend(self) -> bool:
        """Take a retry, where one is left."""
        with self._lock:
            # Sums of tenths are a little less than the whole they should be.
            if self._tokens < 1 - 1e-9:
                return False
            self._tokens -= 1
            return True


class _Waiter(NamedTuple):
    """A call that waits: when it came, how long it waits before those that still come are no burst, and its place."""

    since_s: float
    patience_s: float
    place: Future[int]


class Throttle:
    """Holds back calls that an overloaded server would refuse anyway; thread-safe.

    A refusal costs the server too, so that what it refuses takes the place of what it could answer. So the calls
    under way at a time are limited, as a congestion window limits what a sender of TCP has under way: calls go out as
    answers come in, and the server is never idle. The limit begins with what an idle server takes at once.

    **A burst waits** for places, in order. Where calls go on coming although the first one in the queue has waited 3%
    of its time, the burst is an overload: all that wait are held back, and later calls that find no place
    are held back at once, until a second has passed without.

    The first refusal brings the limit below the number under way with that call: to what the server took. Each later
    one takes a place away, so that the limit falls by the share of what is refused, as in "Data center TCP (DCTCP)"
    (Alizadeh et al., SIGCOMM 2010). Under overload the limit grows with the time, alike for all clients, and by half
    of itself a second. A limit below one spaces calls out: a server that refuses all of them gets ten a second.

    While a burst waits, the limit grows with each answer, until the answers take longer or the server refuses a call,
    as in "Taming the elephants: new TCP slow start" (Ha and Rhee, Computer Networks 2011): so a distant server is used
    as well as a near one.
    """

    #: Places at first, and again after a time with nothing under way: as many as an idle server takes at once.
    FIRST: Final = 64.0
    #: Calls that may wait.
    ROOM: Final = 448
    #: Growth of the limit in a second: places for each place that there is, and others.
    _RATE, _MORE = 0.5, 10.0
    #: The limit is never higher; it is reached within this exponent of the growth.
    _MOST, _LONG = 10_000.0, 10.0
    #: Share of its time that the first call waits before those that come are more than a burst, and how many may.
    _SHARE, _STRAY = 0.03, 16
    #: Growth with an answer while calls wait, as long as it took less than so many times the shortest time of one.
    _ANSWERED, _SLOW = 0.25, 1.5
    #: Time without a call held back or refused, after which bursts may wait again.
    _CALM_S: Final = 1.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._under_way = 0
        self._limit = self.FIRST
        self._grown_s = clock()
        self._waiting: deque[_Waiter] = deque()
        self._came_late = 0
        self._overloaded_until_s = -math.inf
        #: Shortest time of an answer since the limit began to grow with answers; `None` where it does not.
        self._least_s: float | None = math.inf
        #: The highest limit since the first refusal: a call under way with more was sent before.
        self._highest = math.inf

    @property
    def waiting(self) -> int:
        """Number of calls that wait for a place."""
        return len(self._waiting)

    def enter(self, left_s: float) -> int | Future[int]:
        """Begin a call that has so many seconds left.

        Returns:
            How many calls are under way with it, 0 for one that must not be sent, or either as soon as it is known. A
            caller that does not wait for that any longer calls `give_up`.
        """
        with self._lock:
            if not self._waiting and self._under_way + 1 <= self._limit:
                self._under_way += 1
                return self._under_way
            return self._enter_full(left_s)

    def wait(self, left_s: float) -> int:
        """Begin a call, and wait for its place; returns what `enter` does, and raises TimeoutError."""
        place = self.enter(left_s)
        if isinstance(place, int):
            return place
        try:
            return place.result(left_s)
        except BaseException:
            self.give_up(place)
            raise

    async def wait_async(self, left_s: float) -> int:
        """See `wait`."""
        place = self.enter(left_s)
        return place if isinstance(place, int) else await self.granted(place, left_s)

    async def granted(self, place: Future[int], left_s: float) -> int:
        """Wait for a place that `enter` returned; raises TimeoutError."""
        try:
            async with asyncio.timeout(left_s):
                return await asyncio.wrap_future(place)
        except BaseException:
            self.give_up(place)
            raise

    def give_up(self, place: Future[int]) -> None:
        """Wait no longer for a place, which goes to the next call where it has been granted meanwhile."""
        with self._lock:
            if place.cancel():
                self._waiting = deque(one for one in self._waiting if one.place is not place)
            elif place.result():
                self._under_way -= 1
                self._grant()

    def leave(self, entered: int, took_s: float, *, refused: bool) -> None:
        """End a call that was sent.

        Args:
            entered: What `enter` returned for it. So many were too many for the server, where it refused the call: by
                now others may have been answered.
            took_s: How long it was under way.
            refused: Whether the server had no time for it.
        """
        with self._lock:
            self._under_way -= 1
            if refused:
                self._refused(entered)
            elif self._least_s is not None:
                self._least_s = min(self._least_s, took_s)
                if self._waiting and took_s <= self._SLOW * self._least_s:
                    self._limit = min(self._MOST, self._limit + self._ANSWERED)
            if self._waiting:
                self._grant()
            elif not self._under_way:
                self._least_s = self._highest = math.inf
                if self._limit > self.FIRST and self._clock() >= self._overloaded_until_s:
                    self._limit = self.FIRST

    def _enter_full(self, left_s: float) -> int | Future[int]:
        now = self._clock()
        self._grow(now)
        if not self._waiting:
            if self._under_way + 1 <= self._limit:
                self._under_way += 1
                return self._under_way
            self._came_late = 0
        elif now - self._waiting[0].since_s > self._waiting[0].patience_s:
            self._came_late += 1
        if self._came_late > self._STRAY or now < self._overloaded_until_s or self._limit < self.FIRST / 2:
            self._hold_back()
            return 0
        if len(self._waiting) >= self.ROOM:
            return 0
        self._waiting.append(_Waiter(now, self._SHARE * left_s, Future()))
        return self._waiting[-1].place

    def _refused(self, entered: int) -> None:
        self._grow(self._clock())
        first, self._least_s = self._least_s is not None, None
        if entered <= self._highest:
            self._limit = max(0.0, min(self._limit, max(entered, _RESERVE)) - 1)
            self._highest = self._limit if first else self._highest
        if self._limit < self.FIRST / 2:
            self._hold_back()

    def _hold_back(self) -> None:
        """Tell all calls that wait that they must not be sent, and let none wait for a time."""
        self._overloaded_until_s = self._clock() + self._CALM_S
        while self._waiting:
            place = self._waiting.popleft().place
            if place.set_running_or_notify_cancel():
                place.set_result(0)

    def _grant(self) -> None:
        """Give the free places to the calls that wait, in order."""
        while self._waiting and self._under_way + 1 <= self._limit:
            place = self._waiting.popleft().place
            if place.set_running_or_notify_cancel():
                self._under_way += 1
                place.set_result(self._under_way)

    def _grow(self, now: float) -> None:
        """Let the limit grow by the time: to the first one, and further under overload."""
        others = self._MORE / self._RATE
        grown = (self._limit + others) * math.exp(min(self._RATE * (now - self._grown_s), self._LONG)) - others
        most = self._MOST if now < self._overloaded_until_s else max(self._limit, self.FIRST)
        self._limit, self._grown_s = min(most, grown), now
        self._highest = max(self._highest, self._limit)
