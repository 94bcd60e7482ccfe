"""What a client spares an overloaded server: retries beyond a budget, and calls that would be refused."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from random import Random
from typing import Final

#: Tokens, or refused calls, that a client has in reserve: one that calls now and then is never held back.
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
    """Refuses calls that an overloaded server would refuse anyway; thread-safe.

    A refusal costs the server too, so that what it refuses takes the place of what it could answer. A call is refused
    with the probability (calls - 1.5 accepted - 10) / (calls + 1): adaptive throttling of "Site Reliability
    Engineering" (Beyer et al., 2016), chapter 21. Here a call counts when its fate is known, so that none of a burst is
    refused before the server has refused some; and all counts fade.
    """

    _FADE_S: Final = 0.5
    #: Calls for each accepted one; those beyond find out when the server has time again.
    _TIMES: Final = 1.5

    def __init__(self, random: Random, clock: Callable[[], float] = time.monotonic) -> None:
        self._random = random
        self._clock = clock
        self._calls = self._accepted = 0.0
        self._at = clock()
        self._lock = threading.Lock()

    def refuses(self) -> bool:
        """Whether a call must not be sent."""
        with self._lock:
            self._fade()
            share = max(0.0, self._calls - self._TIMES * self._accepted - _RESERVE) / (self._calls + 1)
            refused = self._random.random() < share
            self._calls += refused
            return refused

    def answered(self, *, accepted: bool) -> None:
        """Count a call that was sent: whether the server took it, or had no time for it."""
        with self._lock:
            self._fade()
            self._calls += 1
            self._accepted += accepted

    def _fade(self) -> None:
        now = self._clock()
        kept = math.exp((self._at - now) / self._FADE_S)
        self._calls, self._accepted, self._at = self._calls * kept, self._accepted * kept, now
