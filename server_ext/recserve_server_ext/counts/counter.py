"""Counts the log now and then, in the background."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from recserve_server_ext.common.errors import InteractionError
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.config.blend import BlendRules
from recserve_server_ext.config.counts import ClickPrior
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.counts.clicks import ClickCounts, read_clicks
from recserve_server_ext.counts.counts import Counts, counts_of, no_counts
from recserve_server_ext.counts.popularity import still_until
from recserve_server_ext.counts.reader import LogReader
from recserve_server_ext.interactions import reads as interaction_reads
from recserve_server_ext.interactions.reads import Change
from recserve_server_ext.interactions.store import InteractionStore

#: Counting takes at most one part in so many of the time.
_PAUSE: Final = 20
_log = logging.getLogger(__name__)


class LogCounter:
    """Counts now and then, in a thread of its own; a caller waits only for the first count of what is popular."""

    def __init__(
        self,
        store: Callable[[], InteractionStore],
        rules: HistoryRules,
        blend: BlendRules,
        *,
        every_s: float,
        contexts: Sequence[str] = (),
        clock: Callable[[], float] = time.time,
        prior: ClickPrior | None = None,
    ) -> None:
        """
        Args:
            store: Opens the interaction store.
            rules: Types with a positive base weight count.
            blend: How they count.
            every_s: How old a count may be.
            contexts: Names of the contexts by which it is counted too.
            clock: Seconds since 1970.
            prior: Of the rates of clicks; none = as in the settings that name none.
        """
        self._open = store
        types = sorted(name for name, weight in rules.base.items() if weight > 0)
        self._reader = LogReader(types, contexts)
        self._blend = blend
        self._every_s = every_s
        self._clock = clock
        self._prior = prior or ClickPrior()
        self._counts = no_counts()._replace(clicks=ClickCounts(prior=self._prior))
        self._next = self._next_paired = self._spent = 0.0
        self._is_wanted = False
        self._revision = self._paired_revision = -1
        self._erasures: Change = (0, 0)
        self._still_until_us = 0
        self._counting: threading.Thread | None = None

    def counts(self, *, paired: bool = False) -> Counts:
        """The last count; starts another one where that is too old. Not to be called by two threads at a time.

        Args:
            paired: Whether item-to-item counts or clicks are wanted: they take longest, and are counted again only
                when they were asked for since they were counted last.
        """
        if not self._next:
            self.count(paired=False)
            # The rest as soon as it is wanted; but a store that is away or empty is not asked again at once.
            self._next_paired = 0.0 if self._counts.everybody.active[-1] else self._next
            return self._counts
        self._is_wanted |= paired
        due = min(self._next, self._next_paired) if paired else self._next
        if time.monotonic() >= due and (self._counting is None or not self._counting.is_alive()):
            wanted = {"paired": self._is_wanted}
            self._counting = threading.Thread(target=self.count, kwargs=wanted, name="count the log", daemon=True)
            self._counting.start()
        return self._counts

    def forget_erased(self, erasures: Change) -> None:
        """Forget the interactions that were read, if somebody was erased since; see `LogReader.forget_erased`."""
        self._reader.forget_erased(erasures)

    def count(self, *, paired: bool = True) -> None:
        """Count now what has changed since it was counted last.

        Args:
            paired: Whether item-to-item counts and clicks are wanted too; if not, they stay as they are, unless a user
                was erased since they were counted.
        """
        start = time.monotonic()
        if paired:
            self._is_wanted = False
        try:
            self._counts = self._counted(self._open(), paired=paired)
        except InteractionError as error:
            _log.error("the log could not be counted: %s", error)
            paired = True
        # Also after a failure: a store that is away must not be asked by every batch.
        end = time.monotonic()
        # One that came before its time shortened the pause after the one before it.
        self._spent = end - start + (self._spent if start < self._next else 0.0)
        self._next = end + max(self._every_s, _PAUSE * self._spent)
        if paired:
            self._next_paired = self._next

    def _counted(self, store: InteractionStore, *, paired: bool) -> Counts:
        # Before the log is read: what is committed meanwhile is counted next time.
        revision, now_us = store.revision, round(self._clock() * MICROSECONDS)
        with store.database.reading() as connection:
            erasures = interaction_reads.erasures(connection)
        # What was counted of somebody who was erased must not stay, wanted or not.
        paired = paired or (self._paired_revision >= 0 and erasures != self._erasures)
        counts, paired_anew = self._counts, paired and revision != self._paired_revision
        if paired_anew or revision != self._revision or now_us >= self._still_until_us:
            log = self._reader.read(store)
            found = counts_of(log, now_us, self._blend, paired=paired_anew)
            kept = counts if not paired_anew else found
            counts = found._replace(items=kept.items, neighbours=kept.neighbours, clicks=counts.clicks)
            self._revision, self._still_until_us = revision, still_until(log.time_us, now_us)
            if paired_anew:
                self._paired_revision = revision
        if paired:
            counts, self._erasures = counts._replace(clicks=read_clicks(store, self._prior)), erasures
        return counts
