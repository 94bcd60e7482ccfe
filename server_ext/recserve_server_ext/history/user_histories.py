"""Reads the recorded histories of users: weighted behaviours, for many users at once, with a cache."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, compress, pairwise, repeat
from typing import Final, Protocol

import numpy as np
from cachetools import LRUCache

from recserve_server_ext.catalogue.view import RowOf
from recserve_server_ext.common.arrays import NO_ROWS, Floats, Ints, Mask
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.history.cleaning import of_types
from recserve_server_ext.history.weights import WeightedInteractions, weigh
from recserve_server_ext.interactions import reads as interaction_reads
from recserve_server_ext.interactions.columns import InteractionColumns, among
from recserve_server_ext.interactions.comments import with_comments
from recserve_server_ext.interactions.keys import UserKeys
from recserve_server_ext.interactions.reads import Change
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.interactions.writes import KINDS

#: The newest interactions of a user that a history is made from.
WINDOW: Final = 500
#: Cached behaviours and seen items of all users together.
MAX_CACHED: Final = 1_000_000
#: Largest weight of a behaviour; only ratios within a history matter.
_MAX_WEIGHT: Final = 1e6
#: Characters of a comment that take as much of the cache as a behaviour.
_CHARACTERS: Final = 100
_NO_COMMENTS: Final[Mapping[int, str]] = {}
#: Seen items of a user and their kinds: two lists of equal length.
SeenItems = tuple[list[str], list[str]]


class RowLookup(Protocol):
    """Anything that knows the rows of items, such as a catalogue view."""

    @property
    def row_of(self) -> RowOf:
        """Item id -> row."""
        ...


class RecordedHistory:
    """A user's recorded behaviours and seen items; immutable.

    Attributes:
        subjects: [behaviours] item ids and texts, newest first.
        is_item: [behaviours] whether the subject is an item.
        weights: [behaviours] weights by the history rules.
        newer: [behaviours] number of the user's interactions that are newer.
        undecayed_weights: [behaviours] weights before decay by age; see the function `undecayed_weights`.
        time_us: [behaviours] microseconds since 1970.
        seen: Seen items that are not among the behaviours.
        comments: Texts about items that have no rating beside them, by position of the behaviour.
        has_texts: Whether any behaviour is a text.
        newest_us: Time of the newest behaviour, in microseconds since 1970; 0 for an empty history.
    """

    __slots__ = (
        "_rows",
        "comments",
        "has_texts",
        "is_item",
        "newer",
        "newest_us",
        "seen",
        "subjects",
        "time_us",
        "undecayed_weights",
        "weights",
    )

    def __init__(
        self,
        subjects: list[str],
        is_item: Mask,
        weights: Floats,
        newer: Floats,
        undecayed_weights: Floats,
        time_us: Ints,
        seen: list[str],
        newest_us: int = 0,
        comments: Mapping[int, str] = _NO_COMMENTS,
    ) -> None:
        self.subjects = subjects
        self.is_item = is_item
        self.weights = weights
        self.newer = newer
        self.undecayed_weights = undecayed_weights
        self.time_us = time_us
        self.seen = seen
        self.newest_us = newest_us
        self.comments = comments
        self.has_texts = np.count_nonzero(is_item) < len(is_item)
        self._rows: tuple[weakref.ref[RowLookup], Ints, Ints] | None = None

    def take(self, is_kept: Mask) -> RecordedHistory:
        """The history without some of its behaviours."""
        return RecordedHistory(
            list(compress(self.subjects, is_kept.tolist())),
            self.is_item[is_kept],
            self.weights[is_kept],
            self.newer[is_kept],
            self.undecayed_weights[is_kept],
            self.time_us[is_kept],
            self.seen,
            self.newest_us,
            among(self.comments, np.flatnonzero(is_kept)),
        )

    @property
    def size(self) -> int:
        """Number of behaviours and seen items; some characters of a comment count as one."""
        return len(self.subjects) + len(self.seen) + sum(map(len, self.comments.values())) // _CHARACTERS

    def rows_in(self, view: RowLookup) -> tuple[Ints, Ints]:
        """Rows of the behaviours, and rows of all seen items; cached for the last view.

        Returns:
            [behaviours] rows, -1 for texts and items that the catalogue lacks; and the distinct rows of all items that
            the user has seen, those of the behaviours included, ascending.
        """
        if not self._is_found_in(view):
            find_rows([self], view)
        assert self._rows is not None
        return self._rows[1], self._rows[2]

    def _is_found_in(self, view: RowLookup) -> bool:
        # A weak reference: a view holds a snapshot.
        return self._rows is not None and self._rows[0]() is view


def find_rows(histories: Iterable[RecordedHistory], view: RowLookup) -> None:
    """Look up at once what `rows_in` says of the histories that do not know it for this view."""
    missing = [history for history in histories if not history._is_found_in(view)]
    names = list(chain.from_iterable(chain(history.subjects, history.seen) for history in missing))
    rows = view.row_of.rows(names)
    lengths = [len(history.subjects) + len(history.seen) for history in missing]
    starts = [0, *accumulate(lengths)]
    for start, history in zip(starts, missing, strict=False):
        if history.has_texts:
            rows[start : start + len(history.subjects)][~history.is_item] = -1
    # The distinct rows of each history, ascending, by one sort for all of them.
    stride = int(rows.max(initial=0)) + 1
    keys = np.sort((np.repeat(np.arange(len(missing)), lengths) * stride + rows)[rows >= 0])
    keys = keys[np.append(True, keys[1:] != keys[:-1])[: len(keys)]]
    bounds = np.searchsorted(keys, np.arange(len(missing) + 1) * stride).tolist()
    seen = keys % stride
    ref = weakref.ref(view)
    for start, (first, last), history in zip(starts, pairwise(bounds), missing, strict=False):
        history._rows = ref, rows[start : start + len(history.subjects)].copy(), seen[first:last].copy()


@dataclass(slots=True, eq=False)
class _Cached:
    """A cached history, valid while the user's change number is the same; it was so at the store's mark."""

    mark: int
    change: Change
    history: RecordedHistory


class UserHistories:
    """Reads the histories of a batch of users, with one query for their interactions and one for their seen items.

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


def recorded_histories(
    columns: InteractionColumns, seen: Sequence[Collection[str]], rules: HistoryRules
) -> list[RecordedHistory]:
    """The history of each user, in the order of the columns.

    Args:
        columns: The newest interactions of each user, newest first, perhaps with comments.
        seen: [users] all other items that each user interacted with; may name some of these, too.
        rules: Rules by which interactions become weights.

    Raises:
        ConfigError: The rules need fitted statistics and have none.
    """
    weighted = weigh(columns, rules)
    weights, newer, undecayed = weighted.weight, weighted.newer.astype(np.float64), undecayed_weights(weighted)
    names = columns.subjects
    codes = columns.subject[weighted.index]
    subjects = list(map(names.__getitem__, codes.tolist()))
    is_item = columns.is_item[codes]
    # Both are rarely so: one check for all users costs less than one for each.
    any_texts, any_too_heavy = not is_item.all(), float(np.abs(weights).max(initial=0.0)) > _MAX_WEIGHT
    times = columns.time_us[weighted.index]
    unrated = np.flatnonzero(~of_types(columns, rules.rating.types)[weighted.index]) if columns.comments else NO_ROWS
    comments = {int(n): columns.comments[at] for n in unrated if (at := int(weighted.index[n])) in columns.comments}
    histories = []
    left_out = _left_out(columns, weighted)
    for (start, end), user_seen, user_left in zip(pairwise(weighted.offsets.tolist()), seen, left_out, strict=False):
        own, own_is_item = subjects[start:end], is_item[start:end].copy()
        others: list[str] = []
        if user_seen or user_left:
            items = set(compress(own, own_is_item.tolist()) if any_texts else own)
            others = [item for item in dict.fromkeys(chain(user_left, user_seen)) if item not in items]
        own_weights = _bounded(weights[start:end]) if any_too_heavy else weights[start:end].copy()
        newest_us = int(times[start]) if start < end else 0
        own_past = newer[start:end].copy(), undecayed[start:end].copy()
        own_times = times[start:end].copy()
        own_comments = among(comments, np.arange(start, end)) if comments else _NO_COMMENTS
        histories.append(
            RecordedHistory(own, own_is_item, own_weights, *own_past, own_times, others, newest_us, own_comments)
        )
    return histories


def _left_out(columns: InteractionColumns, weighted: WeightedInteractions) -> Iterable[list[str]]:
    """The items of each user's interactions that did not become behaviours."""
    if len(weighted.index) == len(columns.time_us):
        return repeat([])
    left: list[list[str]] = [[] for _ in range(columns.users)]
    is_left = columns.is_item[columns.subject]
    is_left[weighted.index] = False
    for place in np.flatnonzero(is_left).tolist():
        left[columns.user[place]].append(columns.subjects[columns.subject[place]])
    return left


def undecayed_weights(weighted: WeightedInteractions) -> Floats:
    """[kept] weight of each interaction before decay by age: the factor of repeats.

    It is 0 for interaction types without a positive base weight. Ratings do not matter: item-to-item counts know which
    items users had, not how they liked them.
    """
    weights: Floats = weighted.factors["repeats"].copy()
    weights[weighted.factors["base"] <= 0] = 0.0
    return weights


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


def _bounded(weights: Floats) -> Floats:
    """Weights within the bound of requests, with the same ratios."""
    heaviest = float(np.abs(weights).max(initial=0.0))
    bounded: Floats = weights.copy() if heaviest <= _MAX_WEIGHT else weights * (1.0 / heaviest)
    return bounded


#: The history of an unknown user.
EMPTY_HISTORY: Final = RecordedHistory(
    [], np.empty(0, np.bool_), np.empty(0), np.empty(0), np.empty(0), np.empty(0, np.int64), []
)
