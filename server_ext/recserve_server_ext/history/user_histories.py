"""Reads the recorded histories of users: weighted behaviours, for many users at once, with a cache."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from cachetools import LRUCache

from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.history.recorded_history import EMPTY_HISTORY, RecordedHistory, recorded_histories
from recserve_server_ext.interactions import reads as interaction_reads
from recserve_server_ext.interactions.columns import InteractionColumns
from recserve_server_ext.interactions.comments import with_comments
from recserve_server_ext.interactions.keys import UserKeys
from recserve_server_ext.interactions.reads import Change
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.interactions.writes import KINDS

#: The newest interactions of a user that a history is made from.
WINDOW: Final = 500
#: Cached behaviours and seen items of all users together.
MAX_CACHED: Final = 1_000_000
#: Seen items of a user and their kinds: two lists of equal length.
SeenItems = tuple[list[str], list[str]]


@dataclass(slots=True, eq=False)
class _Cached:
    """A cached history, valid while the user's change number is the same; it was so at the store's mark."""

    mark: int
    change: Change
    history: RecordedHistory


class UserHistories:
    """Reads the histories of a batch of users, with one query for what they did and saw.

    Histories are cached, and valid as long as the store's change number of the user is the same. So a read always
    includes what was acknowledged before it. The cache is emptied when any user is erased.

    Attributes:
        open_store: Opens the interaction store.
        rules: Rules by which interactions become weights.
        erasures: Erasures of the store at the last look.
        version: Version of the rules.
    """

    def __init__(
        self, store: Callable[[], InteractionStore], rules: HistoryRules, max_cached: int = MAX_CACHED
    ) -> None:
        """
        Args:
            store: Opens the interaction store.
            rules: Rules by which interactions become weights.
            max_cached: Cached behaviours and seen items of all users together, least recently used users go first; an
                empty history counts as one.
        """
        self.open_store = store
        self.rules = rules
        self._max_cached = max_cached
        self._reads_comments = False
        self._cache = self._empty_cache()
        self._mark: int | None = None
        self.erasures: Change = (0, 0)
        self.version = rules.version

    def read(self, pseudonyms: Sequence[str]) -> dict[str, RecordedHistory]:
        """The history of each of these users, empty for an unknown one. Not thread-safe.

        Raises:
            InteractionError: The store cannot be read.
        """
        store = self.open_store()
        # The mark is read first: later commits are looked for again next time.
        mark = store.mark()
        histories = {
            user: cached.history for user in pseudonyms if (cached := self._cache.get(user)) and cached.mark == mark
        }
        missing = [user for user in pseudonyms if user not in histories]
        if missing:
            histories |= self._read(store, missing, mark)
        return histories

    def repeatable(self, allowed: Mapping[str, Collection[str]]) -> dict[str, set[str]]:
        """Items that each user may be recommended again; see the function `repeatable`.

        Args:
            allowed: Repeatable interaction types by pseudonym, of users that `read` was just called for.

        Raises:
            InteractionError: The store cannot be read.
        """
        users = [user for user in allowed if user in self._cache]
        if not users:
            return {}
        store = self.open_store()
        with store.database.reading() as connection:
            store.check(connection)
            numbers = [self._cache[user].change[0] for user in users]
            columns = interaction_reads.window(connection, numbers, WINDOW)
            seen = interaction_reads.seen_pairs(connection, numbers)
        nothing: SeenItems = ([], [])
        return {
            user: repeatable(columns, n, seen.get(number, nothing), allowed[user])
            for n, (user, number) in enumerate(zip(users, numbers, strict=True))
        }

    @property
    def reads_comments(self) -> bool:
        """Whether histories come with comments; a change empties the cache."""
        return self._reads_comments

    @reads_comments.setter
    def reads_comments(self, reads: bool) -> None:
        if reads != self._reads_comments:
            self._reads_comments, self._cache = reads, self._empty_cache()

    def follow(self, keys: UserKeys) -> None:
        """Take the keys in force; new keys make new pseudonyms, so that the cache is emptied."""
        if keys.follow(lambda: self.open_store().database):
            self._cache = self._empty_cache()

    def forget_erased(self) -> None:
        """Empty the cache where a user was erased since the last look.

        Raises:
            InteractionError: The store cannot be read.
        """
        store = self.open_store()
        if store.mark() != self._mark:
            with store.database.reading() as connection:
                self._drop_erased(interaction_reads.erasures(connection))

    def _read(self, store: InteractionStore, pseudonyms: list[str], mark: int) -> dict[str, RecordedHistory]:
        with store.database.reading() as connection:
            store.check(connection)
            if mark != self._mark:
                self._drop_erased(interaction_reads.erasures(connection))
            changes = interaction_reads.change_numbers(connection, pseudonyms)
            histories = {user: EMPTY_HISTORY for user in pseudonyms if user not in changes}
            for user, change in changes.items():
                if (cached := self._cache.get(user)) and cached.change == change:
                    cached.mark, histories[user] = mark, cached.history
            self._mark = mark
            stale = [user for user in pseudonyms if user not in histories]
            if not stale:
                return histories
            numbers = [changes[user][0] for user in stale]
            columns, seen = interaction_reads.pasts(connection, numbers, WINDOW)
            if self._reads_comments:
                columns = with_comments(connection, numbers, columns, WINDOW)
        for user, history in zip(stale, recorded_histories(columns, seen, self.rules), strict=True):
            histories[user] = history
            self._cache.pop(user, None)
            if history.size <= self._max_cached:
                self._cache[user] = _Cached(mark, changes[user], history)
        return histories

    def _drop_erased(self, erasures: Change) -> None:
        if erasures != self.erasures:
            self._cache = self._empty_cache()
            self.erasures = erasures

    def _empty_cache(self) -> LRUCache[str, _Cached]:
        return LRUCache(self._max_cached, lambda cached: max(cached.history.size, 1))


def repeatable(columns: InteractionColumns, user: int, seen: SeenItems, types: Collection[str]) -> set[str]:
    """Seen items that the user had only interactions of these types with.

    The types are known of the newest interactions, and the kinds of all. Where only the kind `seen` is known of an
    item, the type may have been any, so that the item is not repeatable.

    Args:
        columns: The newest interactions of some users.
        user: Position of the user in the columns.
        seen: All items that the user interacted with, and their kinds.
        types: Repeatable interaction types.
    """
    own = slice(int(columns.offsets[user]), int(columns.offsets[user + 1]))
    allowed = np.array([name in types for name in columns.types], np.bool_)[columns.type[own]]
    subjects = columns.subject[own]
    names = columns.subjects
    recent = {names[n] for n in np.unique(subjects).tolist() if columns.is_item[n]}
    refused = {names[n] for n in np.unique(subjects[~allowed]).tolist()}
    kinds = {kind for name, kind in KINDS.items() if name in types}
    for item, kind in zip(*seen, strict=True):
        if kind not in kinds and not (kind not in KINDS.values() and item in recent):
            refused.add(item)
    return set(seen[0]) - refused
