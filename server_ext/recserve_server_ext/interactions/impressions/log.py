"""The impression log: answers go through a bounded queue to a thread that writes; no request waits, none fails."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from recserve_client.contract import Slate
from recserve_server_ext.common.errors import InteractionError
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.config.experiments import Experiment
from recserve_server_ext.config.server import ImpressionLogSettings
from recserve_server_ext.interactions.impressions import rows as impression_rows
from recserve_server_ext.interactions.impressions.rows import Line, row_of
from recserve_server_ext.interactions.store import InteractionStore

#: Answers of one transaction; while it runs, nothing else can be written to the store.
_BATCH: Final = 500
#: Pause between two trims to the limits.
_TRIM_S: Final = 10.0
#: How long the end of the process waits for the last answers to be written.
_END_S: Final = 5.0
_log = logging.getLogger(__name__)


class LogCounts(NamedTuple):
    """Counts of answers since the start.

    Attributes:
        logged: Written, including those that were dropped because their user was erased meanwhile.
        full: Lost because the queue had no room.
        failed: Lost because the store could not be written, or the keys were rotated while they waited.
    """

    logged: int = 0
    full: int = 0
    failed: int = 0


class ImpressionLog:
    """Takes answers from any thread and writes them a little later."""

    def __init__(
        self,
        store: Callable[[], InteractionStore],
        settings: ImpressionLogSettings,
        *,
        show: Callable[[LogCounts], None] = lambda counts: None,
        clock: Callable[[], float] = time.time,
        seed: int | None = None,
    ) -> None:
        """Start the thread.

        Args:
            show: Called by the thread with the counts after every flush.
            clock: Seconds since 1970.
            seed: Seed of the sampling, or `None` for one from the system.
        """
        self._open = store
        self._settings = settings
        #: Experiments that the store is to know of, and those that it knows of.
        self._served: Sequence[Experiment] = ()
        self._noted: Sequence[Experiment] = ()
        self._show = show
        self._clock = clock
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._lines: deque[Line] = deque()
        self._items = 0
        self._logged = self._full = self._failed = 0
        self._next_trim = 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log answers", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> LogCounts:
        """The counts now."""
        return LogCounts(self._logged, self._full, self._failed)

    @property
    def waiting(self) -> int:
        """Number of answers in the queue, without those that are being written."""
        return len(self._lines)

    def offer(self, slate: Slate, pseudonym: str | None, keys: str = "") -> bool:
        """Log an answer if it is in the sample and there is room; returns at once whether it will be written.

        Args:
            pseudonym: Pseudonym of the user, or `None` where the request named no user.
            keys: Fingerprint of the ring that made the pseudonym.
        """
        sampling = self._settings.plain if pseudonym is None else self._settings.by_user
        if sampling < 1 and self._random.random() >= sampling:
            return False
        line = Line.of(slate, pseudonym, int(self._clock() * MICROSECONDS), sampling, keys)
        with self._lock:
            items = self._items + len(line.items)
            if len(self._lines) >= self._settings.queue or items > self._settings.queue_items:
                self._full += 1
                return False
            self._lines.append(line)
            self._items = items
        return True

    def serve(self, experiments: Sequence[Experiment]) -> None:
        """Write what these experiments are to the store, before the answers that follow."""
        self._served = experiments

    def flush(self) -> None:
        """Write the queue. Not to be called by two threads at a time."""
        try:
            self._note_and_trim()
            while lines := self._take():
                self._write(lines)
        except InteractionError as error:
            _log.error("answers could not be logged: %s", error)
        except Exception as error:
            # The thread must survive any fault; the lost answers are counted.
            _log.error("answers could not be logged", exc_info=error)

    def close(self) -> None:
        """Write the queue, for at most 5 s, and end the thread."""
        self._end.set()
        self._thread.join(_END_S)

    def _run(self) -> None:
        while not self._end.wait(self._settings.every_s):
            self.flush()
            self._show(self.counts)
        self.flush()

    def _take(self) -> list[Line]:
        with self._lock:
            lines = [self._lines.popleft() for _ in range(min(_BATCH, len(self._lines)))]
            self._items -= sum(len(line.items) for line in lines)
        return lines

    def _write(self, lines: Sequence[Line]) -> None:
        try:
            rows = [row_of(line) for line in lines]
            store = self._open()
            with store.database.writing() as connection:
                store.check(connection)
                # In the transaction, where no rotation can come between: a pseudonym of another ring names no user.
                if store.keys is not None:
                    ring, pairs = store.keys.pseudonyms.fingerprint, zip(lines, rows, strict=True)
                    rows = [row for line, row in pairs if line.pseudonym is None or line.keys == ring]
                now_us = round(self._clock() * MICROSECONDS)
                impression_rows.write(connection, rows, store.limits, now_us, store.mark_of)
        except BaseException:
            self._failed += len(lines)
            raise
        self._logged += len(rows)
        self._failed += len(lines) - len(rows)

    def _note_and_trim(self) -> None:
        now_us = round(self._clock() * MICROSECONDS)
        if (served := self._served) is not self._noted:
            with self._open().database.writing() as connection:
                impression_rows.note_experiments(connection, served, now_us)
            self._noted = served
        if self._logged and time.monotonic() >= self._next_trim:
            self._next_trim = time.monotonic() + _TRIM_S
            self._open().trim_answers(now_us)
