"""Backlog of calls: taken out of Triton's queue, where nothing can be seen or refused, when many may stand there.

Triton hands over what waits, up to a full batch. So a batch that is not full leaves an empty queue behind, and no call
has waited longer than since the last such batch. Once that is long, calls are taken into the backlog, or refused, and a
thread answers them: so the backlog sees how many waited. While it finds few, it looks less and less often, since an
answer out of the backlog costs more than one at once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from recserve_client.contract import RequestError
from recserve_server_ext.batching.admission import Admission, waited_share
from recserve_server_ext.batching.revision_wait import MAX_BYTES, Answer, Caller

#: Time without an empty queue, after which the backlog takes what is there: at first, and after many looks in vain.
_FIRST_PAUSE_NS, _LAST_PAUSE_NS = 8_000_000, 128_000_000
#: Full batches that wait where there is no congestion: callers in a closed loop have sent so many.
_FEW_BATCHES: Final = 4


class TakenCall:
    """A call of the backlog; see `recserve_server_ext.batching.batcher.Call`."""

    __slots__ = ("_caller", "_raw", "deadline_ns", "send", "since_ns")

    def __init__(self, raw: bytes, caller: Caller) -> None:
        self._raw = raw
        self._caller = caller
        self.deadline_ns = caller.deadline_ns
        self.send = caller.defer()
        self.since_ns = time.monotonic_ns()

    def read(self) -> bytes:
        """The packed request."""
        return self._raw

    def defer(self) -> Callable[[Answer], None]:
        """See `Caller.defer`."""
        return self.send

    def is_cancelled(self) -> bool:
        """See `Caller.is_cancelled`."""
        return self._caller.is_cancelled()


class Backlog:
    """Calls that wait to be answered by a thread, in order of their arrival."""

    def __init__(
        self,
        run: Callable[[Sequence[TakenCall]], Sequence[Answer | None]],
        admission: Admission,
        full_batch: int,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """
        Args:
            run: Answers calls; `None` for those that are answered later. Raises nothing.
            admission: Decides what may wait.
            full_batch: Most calls that Triton hands over together, and that are answered together.
            clock_ns: Monotonic clock, in nanoseconds.
        """
        self._run = run
        self._admission = admission
        self._full_batch = full_batch
        self._few = _FEW_BATCHES * full_batch
        self._clock_ns = clock_ns
        #: When Triton's queue was last empty, or looked into.
        self._empty_ns = clock_ns()
        self._pause_ns = _FIRST_PAUSE_NS
        self._is_looking = self._is_calm = False
        self._waiting: deque[TakenCall] = deque()
        self._bytes = 0
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="backlog", daemon=True)
        self._thread.start()

    def takes(self, count: int) -> bool:
        """Whether so many calls must wait; called for each batch, by one thread."""
        now_ns = self._clock_ns()
        is_full, is_long = count >= self._full_batch, len(self._waiting) > self._few
        if is_full and not self._is_looking and now_ns - self._empty_ns > self._pause_ns:
            self._is_looking = self._is_calm = True
        self._is_calm &= not is_long
        if not is_full:
            if self._is_looking:
                self._pause_ns = min(2 * self._pause_ns, _LAST_PAUSE_NS) if self._is_calm else _FIRST_PAUSE_NS
            self._is_looking = False
            self._empty_ns = now_ns
        return self._is_looking or is_long

    def take(self, caller: Caller, read: Callable[[], bytes]) -> RequestError | None:
        """Let a call wait; returns the refusal of one that may not. Costs little, for one that is refused."""
        if refusal := self._admission.admit(1, caller.deadline_ns):
            self._is_calm = False
            return refusal
        try:
            raw = read()
            with self._changed:
                if self._bytes + len(raw) > MAX_BYTES:
                    return self._admission.turn_away(1)
                self._waiting.append(TakenCall(raw, caller))
                self._bytes += len(raw)
                self._changed.notify_all()
        except RequestError as error:
            self._admission.leave(1)
            return error
        return None

    def close(self) -> None:
        """Wait until everything is answered, or deferred."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while taken := self._next():
            start_ns = time.monotonic_ns()
            live = [call for call in taken if call.deadline_ns > start_ns]
            for call in taken:
                if call.deadline_ns <= start_ns:
                    call.send(self._admission.expire())
            for call, answer in zip(live, self._run(live) if live else (), strict=True):
                if answer is not None:
                    call.send(answer)
            if live:
                waited = max(waited_share(call.since_ns, start_ns, call.deadline_ns) for call in live)
                self._admission.measure(len(live), time.monotonic_ns() - start_ns, waited)
            for _ in taken:
                self._admission.leave(1)

    def _next(self) -> list[TakenCall]:
        """Wait for calls, and take those that are answered together; empty when the backlog is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            taken = [self._waiting.popleft() for _ in range(min(self._full_batch, len(self._waiting)))]
            self._bytes -= sum(len(call.read()) for call in taken)
            self._changed.notify_all()
            return taken
