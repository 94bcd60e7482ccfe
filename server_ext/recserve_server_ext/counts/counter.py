"""Counts the interaction log periodically, in a background thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from cachetools import LRUCache

from recserve_server_ext.common.errors import InteractionError
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.config.counts import CountSettings
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.counts.clicks import read_clicks
from recserve_server_ext.counts.counts import ClickCounts, Counts, counts_of, no_counts
from recserve_server_ext.counts.popularity import unchanged_until
from recserve_server_ext.counts.reader import LogReader
from recserve_server_ext.interactions import changes
from recserve_server_ext.interactions.changes import Change
from recserve_server_ext.interactions.store import InteractionStore

#: The pause after a count is at least this many times its duration.
_PAUSE: Final = 20
#: Moments of replays whose counts are kept.
_MAX_REPLAYED: Final = 8
_log = logging.getLogger(__name__)


class LogCounter:
    """Counts the log periodically in a thread of its own; a caller waits only for the first count of popularity."""

    def __init__(
        self,
        store: Callable[[], InteractionStore],
        rules: HistoryRules,
        settings: CountSettings,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            store: Opens the interaction store.
            rules: Interaction types with a positive base weight are counted.
            settings: What is counted, and how often.
            clock: Seconds since 1970.
        """
        self._open = store
        types = sorted(name for name, weight in rules.base.items() if weight > 0)
        self._reader = LogReader(types, settings.contexts)
        self._settings = settings
        self._clock = clock
        self._counts = no_counts()._replace(clicks=ClickCounts(prior=settings.click_prior))
        self._next_due = self._next_full_due = self._spent_s = self._looked_at = 0.0
        self._is_full_wanted = False
        self._revision = self._full_revision = -1
        self._erasures: Change = (0, 0)
        #: From when until when, by the clock of the day, the counts of the same log stay the same.
        self._counted_us = self._unchanged_until_us = 0
        self._thread: threading.Thread | None = None
        self._replayed: LRUCache[tuple[int, bool], Counts] = LRUCache(_MAX_REPLAYED)
        self._replayed_state: tuple[int, Change] = -1, (0, 0)

    @property
    def last(self) -> Counts:
        """The last counts, whatever their age."""
        return self._counts

    def counted_at(self) -> float:
        """When the log was last looked at for the counts, in seconds since 1970; 0 for never. Any thread may ask."""
        return self._looked_at

    def counts(self, *, full: bool = False) -> Counts:
        """The last counts; starts the next count where it is due. Not thread-safe.

        Args:
            full: Whether neighbours or clicks are needed. They take longest, and are counted again only when they were
                asked for since their last count.
        """
        if not self._next_due:
            self.count(full=False)
            # Neighbours and clicks are due at once, unless the store is empty or unavailable.
            self._next_full_due = 0.0 if self._counts.overall.active[-1] else self._next_due
            return self._counts
        self._is_full_wanted |= full
        due = min(self._next_due, self._next_full_due) if full else self._next_due
        if time.monotonic() >= due and (self._thread is None or not self._thread.is_alive()):
            wanted = {"full": self._is_full_wanted}
            self._thread = threading.Thread(target=self.count, kwargs=wanted, name="count the log", daemon=True)
            self._thread.start()
        return self._counts

    def counts_before(self, time_us: int, *, full: bool) -> Counts:
        """The counts as of a moment, in microseconds since 1970; the caller waits for them. Not thread-safe.

        Args:
            time_us: The moment; interactions at this time or later do not count.
            full: Whether neighbours are needed. Clicks are not counted.

        Raises:
            InteractionError: The store cannot be read.
        """
        store = self._open()
        with store.database.reading() as connection:
            state = store.revision, changes.erasures(connection)
        if state != self._replayed_state:
            self._replayed.clear()
            self._replayed_state = state
        counts: Counts | None = self._replayed.get((time_us, full))
        if counts is None:
            log = self._reader.read(store).before(time_us)
            counts = self._replayed[time_us, full] = counts_of(log, time_us, self._settings, full=full)
        return counts

    def forget_erased(self, erasures: Change) -> None:
        """Forget the interactions read, if a user was erased since; see `LogReader.forget_erased`."""
        self._reader.forget_erased(erasures)

    def count(self, *, full: bool = True) -> None:
        """Count what has changed since the last count.

        Args:
            full: Whether to count neighbours and clicks too. If not, they stay as they are, unless a user was erased
                since their last count.
        """
        start = time.monotonic()
        if full:
            self._is_full_wanted = False
        try:
            self._counts = self._counted(self._open(), full=full)
            self._looked_at = self._clock()
        except InteractionError as error:
            _log.error("the log could not be counted: %s", error)
            full = True
        # Also after a failure: an unavailable store must not be asked by every batch.
        end = time.monotonic()
        # A count before its due time shortened the pause after the one before it.
        self._spent_s = end - start + (self._spent_s if start < self._next_due else 0.0)
        self._next_due = end + max(self._settings.every_s, _PAUSE * self._spent_s)
        if full:
            self._next_full_due = self._next_due

    def _counted(self, store: InteractionStore, *, full: bool) -> Counts:
        # The revision is read before the log: later commits are counted next time.
        revision, now_us = store.revision, round(self._clock() * MICROSECONDS)
        with store.database.reading() as connection:
            erasures = changes.erasures(connection)
        # Counts that include an erased user must be replaced, wanted or not.
        full = full or (self._full_revision >= 0 and erasures != self._erasures)
        counts, has_new_neighbours = self._counts, full and revision != self._full_revision
        is_same = self._counted_us <= now_us < self._unchanged_until_us  # the clock may have been set back
        if has_new_neighbours or revision != self._revision or not is_same:
            log = self._reader.read(store)
            new = counts_of(log, now_us, self._settings, full=has_new_neighbours)
            latest = new if has_new_neighbours else counts
            counts = new._replace(items=latest.items, neighbours=latest.neighbours, clicks=counts.clicks)
            self._revision, self._counted_us = revision, now_us
            self._unchanged_until_us = unchanged_until(log.time_us, now_us)
            if has_new_neighbours:
                self._full_revision = revision
        if full:
            counts, self._erasures = counts._replace(clicks=read_clicks(store, self._settings.click_prior)), erasures
        return counts
