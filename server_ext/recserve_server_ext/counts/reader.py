"""The log of all users as it is counted: read once as a whole, then only what came since."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import sqlalchemy as sa

from recserve_server_ext.common.arrays import Ints
from recserve_server_ext.counts.counts import LogColumns
from recserve_server_ext.interactions import reads as interaction_reads
from recserve_server_ext.interactions.reads import Change
from recserve_server_ext.interactions.store import InteractionStore

#: Newest interactions, as they came, that are counted at most: this bounds what a count costs and what is kept.
COUNTED: Final = 1_000_000
#: After this all is read anew: interactions that the limits removed are counted no longer than this.
_ANEW_S: Final = 3600.0
#: Rows of what is kept.
_NUMBER, _USER, _ITEM, _TIME = range(4)


class LogReader:
    """The newest interactions with items, of some types. What was read is kept, until a user is erased.

    A read gives what reading all of it anew gives, apart from what the limits of the store removed in the last hour.
    """

    _last: int
    _kept: Ints
    _of_context: list[list[str | None]]
    _codes: dict[str, int]
    _anew_at: float

    def __init__(
        self, types: Sequence[str], contexts: Sequence[str] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            types: Interactions that count.
            contexts: Names whose values are read.
            clock: Seconds, by which everything is read anew now and then.
        """
        self._types = types
        self._contexts = contexts
        self._clock = clock
        self._lock = threading.Lock()
        self._erasures: Change = (0, 0)
        self._forget()

    def read(self, store: InteractionStore) -> LogColumns:
        """The log as it is now.

        Raises:
            InteractionError: The store cannot be read.
        """
        with self._lock:
            try:
                with store.database.reading() as connection:
                    self._follow(connection)
            except BaseException:
                self._forget()  # a part may have come in
                raise
            kept = self._kept
            context = {name: list(of) for name, of in zip(self._contexts, self._of_context, strict=True)}
            return LogColumns(kept[_USER], kept[_ITEM], kept[_TIME], list(self._codes), context)

    def forget_erased(self, erasures: Change) -> None:
        """Forget all if somebody was erased since it was read.

        Args:
            erasures: Of the store, see `recserve_server_ext.interactions.reads.erasures`.
        """
        # Where it is being read, that takes too long to wait for: whoever calls this does so again soon.
        if self._lock.acquire(blocking=False):
            try:
                self._drop_erased(erasures)
            finally:
                self._lock.release()

    def _follow(self, connection: sa.Connection) -> None:
        self._drop_erased(interaction_reads.erasures(connection))
        last = interaction_reads.last_number(connection)
        if last < self._last or self._clock() >= self._anew_at:
            self._forget()
        first = max(last - COUNTED, 0)
        self._drop_until(first)
        begin = max(first, self._last)
        self._append(interaction_reads.item_columns(connection, begin, last, self._types, self._contexts))
        self._last = last

    def _drop_erased(self, erasures: Change) -> None:
        if erasures != self._erasures:
            self._forget()
            self._erasures = erasures

    def _forget(self) -> None:
        self._last = 0
        self._kept = np.empty((4, 0), np.int64)
        self._of_context = [[] for _ in self._contexts]
        self._codes = {}
        self._anew_at = self._clock() + _ANEW_S

    def _append(self, parts: interaction_reads.Parts) -> None:
        code_of, found = self._codes.setdefault, [self._kept]
        for numbers, users, items, times, *of_contexts in parts:
            places = [code_of(item, len(self._codes)) for item in items]
            found.append(np.array([numbers, users, places, times], np.int64))
            for known, new in zip(self._of_context, of_contexts, strict=True):
                known.extend(new)
        self._kept = np.concatenate(found, axis=1)

    def _drop_until(self, number: int) -> None:
        """Drop what is not among the newest; items get their places in the order in which they first occur."""
        gone = int(np.searchsorted(self._kept[_NUMBER], number, side="right"))
        if not gone:
            return
        kept = self._kept[:, gone:].copy()
        used, first, place = np.unique(kept[_ITEM], return_index=True, return_inverse=True)
        order = np.argsort(first)
        names = list(self._codes)
        self._codes = {names[code]: new for new, code in enumerate(used[order].tolist())}
        new_place = np.empty(len(order), np.int64)
        new_place[order] = np.arange(len(order))
        kept[_ITEM] = new_place[place]
        self._kept = kept
        for known in self._of_context:
            del known[:gone]
