"""What a client spares an overloaded server: retries beyond a budget, and calls that would be refused."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Final

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


class Throttle:
    """Holds back calls that an overloaded server would refuse anyway; thread-safe.

    A refusal costs the server too, so that what it refuses takes the place of what it could answer. So the calls
    under way at a time are limited, as a congestion window limits what a sender of TCP has under way: calls go out as
    answers come in, and the server is never idle. There is no limit before the first refusal, which brings it below
    the number under way with that call: to what the server took. What else was sent before says nothing more. Each
    later refusal takes a place away, so that the limit falls by the share of what is refused, as in "Data center TCP
    (DCTCP)" (Alizadeh et al., SIGCOMM 2010). It grows with the time, alike for all clients, and by half of itself a
    second, until there is none. A limit below one spaces calls out: a server that refuses all of them gets ten a
    second.
    """

    #: Growth of the limit in a second: places for each place that there is, and others.
    _RATE, _MORE = 0.5, 10.0
    #: A limit as high as this is none; it is reached within this exponent of the growth.
    _NONE: Final = 10_000.0
    _LONG: Final = 10.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._under_way = 0
        self._limit = self._NONE
        #: The highest limit since there is one: a call under way with more was sent before there was.
        self._highest = self._NONE
        self._at = clock()
        self._lock = threading.Lock()

    def enter(self) -> int:
        """Begin a call; how many are under way with it, or 0 for one that must not be sent."""
        with self._lock:
            if self._limit < self._NONE:
                self._grow()
                if self._under_way + 1 > self._limit:
                    return 0
            self._under_way += 1
            return self._under_way

    def leave(self, entered: int, *, refused: bool) -> None:
        """End a call that was sent.

        Args:
            entered: What `enter` returned for it. So many were too many for the server, where it refused the call: by
                now others may have been answered.
            refused: Whether the server had no time for it.
        """
        with self._lock:
            self._under_way -= 1
            if refused:
                self._grow()
                if entered <= self._highest:
                    first = self._limit >= self._NONE
                    self._limit = max(0.0, min(self._limit, max(entered, _RESERVE)) - 1)
                    self._highest = self._limit if first else self._highest

    def _grow(self) -> None:
        now = self._clock()
        others = self._MORE / self._RATE
        grown = (self._limit + others) * math.exp(min(self._RATE * (now - self._at), self._LONG)) - others
        self._limit, self._at = min(self._NONE, grown), now
        self._highest = max(self._highest, self._limit)
