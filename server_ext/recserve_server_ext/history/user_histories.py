"""Reads the recorded histories of users: weighted behaviours, for many users at once, with a cache."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import sqlalchemy as sa
from cachetools import LRUCache

from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.history.recorded_history import EMPTY_HISTORY, RecordedHistory, recorded_histories
from recserve_server_ext.interactions import changes as store_changes
from recserve_server_ext.interactions import reads as interaction_reads
from recserve_server_ext.interactions.changes import Change
from recserve_server_ext.interactions.columns import InteractionColumns
from recserve_server_ext.interactions.comments import with_comments
from recserve_server_ext.interactions.keys import UserKeys
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.interactions.writes import KINDS

#: The newest interactions of a user that a history is made from.
WINDOW: Final = 500
#: Cached behaviours and seen items of all users together.
MAX_CACHED: Final = 1_000_000
#: Most interactions of a commit whose users are dropped from the cache one by one.
_FEW: Final = 1000
#: Seen items of a user and their kinds: two lists of equal length.
SeenItems = tuple[list[str], list[str]]


@dataclass(slots=True, eq=False)
class _Cached:
    """A cached history, valid while the user's change number is the same; it was so at this revision of the store."""

    revision: int
    change: Change
    history: RecordedHistory


class UserHistories:
    """Reads the histories of a batch of users, with one query for what they did and saw.

    Histories are cached, and valid as long as the store's change number of the user is the same. So a read always
    includes what was acknowledged before it. The cache is emptied when any user is erased. Where one commit that
    recorded interactions came since the last look, only their users are read again. Else change numbers are compared.

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
        #: The last look: revision of the store, and number of its last interaction. Nobody in the cache changed from
        #: the revision `_unchanged_since` to that.
        self._revision = self._unchanged_since = -1
        self._last = 0
        self.erasures: Change = (0, 0)
        self.version = rules.version

    def read(self, pseudonyms: Sequence[str]) -> dict[str, RecordedHistory]:
        """The history of each of these users, empty for an unknown one. Not thread-safe.

        Raises:
            InteractionError: The store cannot be read.
        """
        store = self.open_store()
        is_new = store.mark() != self._revision
        histories = {} if is_new else self._cached(pseudonyms)
        missing = [user for user in pseudonyms if user not in histories]
        return histories | self._read(store, missing, is_new=is_new) if missing else histories

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
        if store.mark() != self._revision:
            with store.database.reading() as connection:
                self._follow(connection)

    def _cached(self, pseudonyms: Sequence[str]) -> dict[str, RecordedHistory]:
        """The histories that are cached and known to be valid at the last look."""
        found = ((user, self._cache.get(user)) for user in pseudonyms)
        return {user: of.history for user, of in found if of is not None and of.revision >= self._unchanged_since}

    def _read(self, store: InteractionStore, pseudonyms: list[str], *, is_new: bool) -> dict[str, RecordedHistory]:
        with store.database.reading() as connection:
            store.check(connection)
            if is_new:
                self._follow(connection)
            histories = self._cached(pseudonyms)
            changes = store_changes.change_numbers(connection, [of for of in pseudonyms if of not in histories])
            for user, change in changes.items():
                if (cached := self._cache.get(user)) and cached.change == change:
                    cached.revision, histories[user] = self._revision, cached.history
            stale = [user for user in pseudonyms if user in changes and user not in histories]
            histories = dict.fromkeys(pseudonyms, EMPTY_HISTORY) | histories
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
                self._cache[user] = _Cached(self._revision, changes[user], history)
        return histories

    def _follow(self, connection: sa.Connection) -> None:
        """Drop from the cache what the commits since the last look made invalid, as this transaction sees them."""
        revision = store_changes.revision(connection)
        erasures = store_changes.erasures(connection)
        if erasures != self.erasures:
            self._cache, self.erasures = self._empty_cache(), erasures
        is_one_commit = revision == self._revision + 1
        recorded = store_changes.recorded_since(connection, self._last, _FEW) if is_one_commit else []
        if 0 < len(recorded) < _FEW:
            # A commit that recorded interactions changed nothing else: nothing of other users has expired.
            for _, user in recorded:
                self._cache.pop(user, None)
            self._last = recorded[-1][0]
        else:
            self._unchanged_since, self._last = revision, store_changes.last_number(connection)
        self._revision = revision

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
