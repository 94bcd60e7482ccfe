"""Counts the log now and then, in the background."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import sqlalchemy as sa

from recserve_server_ext.blend_rules import BlendRules
from recserve_server_ext.click_counts import ClickCounts, read_clicks
from recserve_server_ext.count_rules import ClickPrior, PopularPrivacy
from recserve_server_ext.errors import InteractionError
from recserve_server_ext.event_columns import Ints
from recserve_server_ext.history_rules import HistoryRules
from recserve_server_ext.interaction import MICROSECONDS
from recserve_server_ext.interaction_store import InteractionStore
from recserve_server_ext.interaction_tables import events
from recserve_server_ext.log_counts import Counts, LogColumns, counts_of, no_counts
from recserve_server_ext.private_counts import private_ranking

#: Newest interactions, as they came, that are counted at most: this bounds what a count costs.
COUNTED: Final = 1_000_000
_CHUNK: Final = 5000
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
        privacy: PopularPrivacy | None = None,
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
            privacy: Of what is popular; it is not counted by context then. The keys of the store are its secret.
            prior: Of the rates of clicks; none = as in the settings that name none.
        """
        self._privacy = privacy
        self._open = store
        self._types = sorted(name for name, weight in rules.base.items() if weight > 0)
        self._blend = blend
        self._contexts = contexts
        self._every_s = every_s
        self._clock = clock
        self._prior = prior or ClickPrior()
        self._counts = no_counts()._replace(clicks=ClickCounts(prior=self._prior))
        self._next = 0.0
        self._counting: threading.Thread | None = None

    def counts(self) -> Counts:
        """The last count. Not to be called by two threads at a time."""
        if not self._next:
            self.count(paired=False)
            # The rest at the next call; but a store that is away is not asked again at once.
            self._next = time.monotonic() + (0.0 if self._counts.everybody.active[-1] else self._every_s)
        elif time.monotonic() >= self._next and (self._counting is None or not self._counting.is_alive()):
            self._counting = threading.Thread(target=self.count, name="count the log", daemon=True)
            self._counting.start()
        return self._counts

    def count(self, *, paired: bool = True) -> None:
        """Count now.

        Args:
            paired: Whether item-to-item counts and clicks are wanted, which take longest.
        """
        start = time.monotonic()
        try:
            store = self._open()
            log = read_log(store, self._types, () if self._privacy else self._contexts)
            now_us = round(self._clock() * MICROSECONDS)
            counts = counts_of(log, now_us, self._blend, paired=paired)
            if self._privacy is not None:
                assert store.keys is not None
                sign = store.keys.pseudonyms.sign
                counts = counts._replace(everybody=private_ranking(log, now_us, self._privacy, sign))
            clicks = read_clicks(store, self._prior) if paired else self._counts.clicks
            self._counts = counts._replace(clicks=clicks)
        except InteractionError as error:
            _log.error("the log could not be counted: %s", error)
        # Also after a failure: a store that is away must not be asked by every batch.
        end = time.monotonic()
        self._next = end + max(self._every_s, _PAUSE * (end - start))


def read_log(store: InteractionStore, types: Sequence[str], contexts: Sequence[str] = ()) -> LogColumns:
    """The newest interactions with items, of some types.

    Args:
        store: The interaction store.
        types: Interactions that count.
        contexts: Names whose values are read.

    Raises:
        InteractionError: The store cannot be read.
    """
    values = [events.c.context[name].as_string() for name in contexts]
    codes: dict[str, int] = {}
    parts: list[Ints] = [np.empty((3, 0), np.int64)]
    found: list[list[str | None]] = [[] for _ in contexts]
    with store.database.reading() as connection:
        newest = connection.execute(sa.select(sa.func.max(events.c.number))).scalar_one() or 0
        query = sa.select(events.c.user, events.c.item, events.c.time_us, *values)
        query = query.where(events.c.number > newest - COUNTED, events.c.type.in_(types), events.c.item.is_not(None))
        rows = connection.execution_options(yield_per=_CHUNK).execute(query.order_by(events.c.number))
        for part in rows.partitions():
            users, items, times, *of_contexts = zip(*part, strict=True)
            places = [codes.setdefault(item, len(codes)) for item in items]
            parts.append(np.array([users, places, times], np.int64))
            for known, new in zip(found, of_contexts, strict=True):
                known.extend(new)
    user, item, time_us = np.concatenate(parts, axis=1)
    return LogColumns(user, item, time_us, list(codes), dict(zip(contexts, found, strict=True)))
