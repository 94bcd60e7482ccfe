"""Reads the interaction log of all users: once as a whole, then only the new interactions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import sqlalchemy as sa

from recserve_server_ext.common.arrays import Ints
from recserve_server_ext.counts.clicks import MAX_INTERACTIONS
from recserve_server_ext.counts.counts import LogColumns
from recserve_server_ext.interactions import changes
from recserve_server_ext.interactions import reads as interaction_reads
from recserve_server_ext.interactions.changes import Change
from recserve_server_ext.interactions.store import InteractionStore

#: Everything is read again after this time, so that interactions removed by retention limits leave the counts.
_REREAD_S: Final = 3600.0
#: Rows of the array of interactions.
_NUMBER, _USER, _ITEM, _TIME = range(4)


class LogReader:
    """The newest interactions with items, of some types; cached until a user is erased.

    A read gives the same as reading everything again, apart from what retention limits removed within the last hour.
    """

    _last: int
    _interactions: Ints
    _contexts: list[list[str | None]]
    _codes: dict[str, int]
    _reread_at: float

    def __init__(
        self, types: Sequence[str], contexts: Sequence[str] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            types: Types of the interactions that are read.
            contexts: Context names whose values are read.
            clock: Monotonic clock, in seconds.
        """
        self._types = types
        self._context_names = contexts
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
                    self._update(connection)
            except BaseException:
                self._forget()  # a part may have been read
                raise
            rows = self._interactions
            context = {name: list(values) for name, values in zip(self._context_names, self._contexts, strict=True)}
            return LogColumns(rows[_USER], rows[_ITEM], rows[_TIME], list(self._codes), context)

    def forget_erased(self, erasures: Change) -> None:
        """Forget all interactions if a user was erased since they were read; see `changes.erasures`."""
        # Does not wait for a read in progress, which may take long: the next call comes soon.
        if self._lock.acquire(blocking=False):
            try:
                self._drop_erased(erasures)
            finally:
                self._lock.release()

    def _update(self, connection: sa.Connection) -> None:
        self._drop_erased(changes.erasures(connection))
        last = changes.last_number(connection)
        if last < self._last or self._clock() >= self._reread_at:
            self._forget()
        first = max(last - MAX_INTERACTIONS, 0)
        self._drop_until(first)
        begin = max(first, self._last)
        self._append(interaction_reads.item_columns(connection, begin, last, self._types, self._context_names))
        self._last = last

    def _drop_erased(self, erasures: Change) -> None:
        if erasures != self._erasures:
            self._forget()
            self._erasures = erasures

    def _forget(self) -> None:
        self._last = 0
        self._interactions = np.empty((4, 0), np.int64)
        self._contexts = [[] for _ in self._context_names]
        self._codes = {}
        self._reread_at = self._clock() + _REREAD_S

    def _append(self, parts: interaction_reads.Parts) -> None:
        code_of, chunks = self._codes.setdefault, [self._interactions]
        for numbers, users, items, times, *contexts in parts:
            codes = [code_of(item, len(self._codes)) for item in items]
            chunks.append(np.array([numbers, users, codes, times], np.int64))
            for values, new in zip(self._contexts, contexts, strict=True):
                values.extend(new)
        self._interactions = np.concatenate(chunks, axis=1)

    def _drop_until(self, number: int) -> None:
        """Drop interactions up to a number, and renumber the items in the order in which they first occur."""
        dropped = int(np.searchsorted(self._interactions[_NUMBER], number, side="right"))
        if not dropped:
            return
        rows = self._interactions[:, dropped:].copy()
        used, first, inverse = np.unique(rows[_ITEM], return_index=True, return_inverse=True)
        order = np.argsort(first)
        names = list(self._codes)
        self._codes = {names[code]: new for new, code in enumerate(used[order].tolist())}
        new_code = np.empty(len(order), np.int64)
        new_code[order] = np.arange(len(order))
        rows[_ITEM] = new_code[inverse]
        self._interactions = rows
        for values in self._contexts:
            del values[:dropped]
