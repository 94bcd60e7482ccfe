"""What is popular: for users of whom nothing is known that can be used."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import sqlalchemy as sa

from recserve_server_ext.errors import InteractionError
from recserve_server_ext.history_rules import HistoryRules
from recserve_server_ext.interaction import MICROSECONDS
from recserve_server_ext.interaction_store import InteractionStore
from recserve_server_ext.interaction_tables import events

#: Newest interactions, as they came, that are counted at most: this bounds what a count costs.
COUNTED: Final = 1_000_000
#: Items that are kept of a count.
MOST_ITEMS: Final = 5000
_log = logging.getLogger(__name__)


class Ranking(NamedTuple):
    """Items by the number of their users within a window, most first.

    Attributes:
        items: Item ids.
        users: Users of each.
        active: Users of any item.
    """

    items: list[str]
    users: list[int]
    active: int


_NOTHING: Final = Ranking([], [], 0)


class Popularity:
    """Counts now and then, in a thread of its own; a caller waits for the first count only."""

    def __init__(
        self,
        store: Callable[[], InteractionStore],
        rules: HistoryRules,
        *,
        window_s: float,
        every_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            store: Opens the interaction store.
            rules: Types with a positive base weight count.
            window_s: Interactions older than this do not count.
            every_s: How old a count may be.
            clock: Seconds since 1970.
        """
        self.window_s = window_s
        self._open = store
        self._types = sorted(name for name, weight in rules.base.items() if weight > 0)
        self._every_s = every_s
        self._clock = clock
        self._ranking: Ranking | None = None
        self._next = 0.0
        self._counting: threading.Thread | None = None

    def ranking(self) -> Ranking:
        """The last count. Not to be called by two threads at a time."""
        if not self._next:
            self._count()
        elif time.monotonic() >= self._next and (self._counting is None or not self._counting.is_alive()):
            self._counting = threading.Thread(target=self._count, name="count popular items", daemon=True)
            self._counting.start()
        return self._ranking or _NOTHING

    def _count(self) -> None:
        try:
            self._ranking = count(self._open(), self._types, self._clock() - self.window_s)
        except InteractionError as error:
            _log.error("what is popular could not be counted: %s", error)
        # Also after a failure: a store that is away must not be asked by every batch.
        self._next = time.monotonic() + self._every_s


def count(store: InteractionStore, types: list[str], since: float) -> Ranking:
    """Count the users of items.

    Args:
        store: The interaction store.
        types: Interactions that count.
        since: Seconds since 1970; older interactions do not count.

    Raises:
        InteractionError: The store cannot be read.
    """
    with store.database.reading() as connection:
        newest = connection.execute(sa.select(sa.func.max(events.c.number))).scalar_one() or 0
        counts = (
            events.c.number > newest - COUNTED,
            events.c.time_us >= round(since * MICROSECONDS),
            events.c.type.in_(types),
            events.c.item.is_not(None),
        )
        users = sa.func.count(events.c.user.distinct())
        query = sa.select(events.c.item, users).where(*counts).group_by(events.c.item)
        rows = connection.execute(query.order_by(users.desc(), events.c.item).limit(MOST_ITEMS)).all()
        active = connection.execute(sa.select(users).where(*counts)).scalar_one()
    return Ranking([item for item, _ in rows], [int(found) for _, found in rows], int(active))
