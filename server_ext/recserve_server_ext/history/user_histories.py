"""What users did, as weighted histories: read from the store for many users at once, by the rules of `preview`."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import compress, pairwise, repeat
from typing import Final, NamedTuple, Protocol

import msgspec
import numpy as np
from cachetools import LRUCache

from recserve_client.contract import HistoryEntry, UserHistory
from recserve_server_ext.catalogue.view import RowOf
from recserve_server_ext.common.arrays import Floats, Ints, Mask
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.history.weights import FACTORS, WeightedEvents, weigh
from recserve_server_ext.interactions import reads as interaction_reads
from recserve_server_ext.interactions.columns import InteractionColumns
from recserve_server_ext.interactions.keys import UserKeys
from recserve_server_ext.interactions.reads import Change
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.interactions.writes import KINDS

#: Newest interactions of a user that a history is made from.
WINDOW: Final = 500
#: Entries that are kept of all users together.
KEPT: Final = 1_000_000
_LEFT_OUT: Final = ("no_weight", "missing", "duplicates", "bots", "bounces")
#: What a behaviour may weigh; only ratios within a history count.
_HEAVIEST: Final = 1e6
#: Items and kinds of everything that a user saw, two lists of the same length.
Pairs = tuple[list[str], list[str]]


class Placed(Protocol):
    """What knows the rows of items, as a view does."""

    @property
    def row_of(self) -> RowOf:
        """Item id -> row."""
        ...


class UserPast:
    """What a recommendation needs to know of a user; nothing in it changes.

    Attributes:
        subjects: [behaviours] items and texts, newest first.
        is_item: [behaviours] which of them are items.
        weights: [behaviours] by the rules.
        newer: [behaviours] how many interactions of the user are newer.
        turned: [behaviours] how much each counts apart from its age, for strategies that know nothing of liking: the
            factor of repeats, and 0 for types that push away.
        seen: Items that the user had to do with and that are not among the behaviours.
        has_texts: Whether any behaviour is a text.
        newest_us: Time of the newest behaviour, in microseconds since 1970; 0 = there is none.
    """

    __slots__ = ("_found", "has_texts", "is_item", "newer", "newest_us", "seen", "subjects", "turned", "weights")

    def __init__(
        self, subjects: list[str], is_item: Mask, weights: Floats, newer: Floats, turned: Floats, seen: list[str]
    ) -> None:
        self.subjects = subjects
        self.is_item = is_item
        self.weights = weights
        self.newer = newer
        self.turned = turned
        self.seen = seen
        self.has_texts = not is_item.all()
        self.newest_us = 0
        self._found: tuple[weakref.ref[Placed], Ints, Ints] | None = None

    @property
    def size(self) -> int:
        """Entries that are held."""
        return len(self.subjects) + len(self.seen)

    def rows_in(self, view: Placed) -> tuple[Ints, Ints]:
        """Rows of the behaviours [behaviours], -1 = a text, or not in the catalogue; and of all that was seen.

        The latter are distinct and ascending, and hold those of the behaviours.
        """
        found = self._found
        # The view is not kept alive: it holds a snapshot.
        if found is None or found[0]() is not view:
            rows = _rows(view, self.subjects)
            if self.has_texts:
                rows[~self.is_item] = -1
            banned = np.concatenate([rows, _rows(view, self.seen)]) if self.seen else rows
            found = self._found = (weakref.ref(view), rows, _distinct(banned))
        return found[1], found[2]


def _distinct(rows: Ints) -> Ints:
    """The rows that are any, each once and ascending; `np.unique` takes twice as long for so few."""
    ascending = np.sort(rows)
    is_kept = ascending >= 0
    is_kept[1:] &= ascending[1:] != ascending[:-1]
    return ascending[is_kept]


def _rows(view: Placed, names: list[str]) -> Ints:
    return np.fromiter(map(view.row_of.get, names, repeat(-1)), np.int64, len(names))


class _Kept(NamedTuple):
    """A past that was read; it is right where the user's change number is this one, as it was at this mark."""

    mark: int
    change: Change
    past: UserPast


class UserHistories:
    """Reads the histories of the users of a batch: one query for their interactions and what they have seen.

    What was read is kept, and used as long as the store's change number of the user is the same, so what was
    acknowledged before a read is always in it. When anybody is erased all is forgotten.

    Attributes:
        erasures: Of the store, as they were looked at last.
        version: Of the rules.
    """

    def __init__(self, store: Callable[[], InteractionStore], rules: HistoryRules, kept: int = KEPT) -> None:
        """
        Args:
            store: Opens the interaction store.
            rules: How interactions become weights.
            kept: Entries (behaviours and seen items) that are kept of all users together, at least one for each; the
                users least recently asked for go first.
        """
        self._open = store
        self._rules = rules
        self._most = kept
        self._kept = self._nothing_kept()
        self._mark: int | None = None
        self.erasures: Change = (0, 0)
        self.version = rules.version

    def read(self, pseudonyms: Sequence[str]) -> dict[str, UserPast]:
        """The past of each of these users; an unknown one has none. Not to be called by two threads at a time.

        Raises:
            InteractionError: The store cannot be read.
        """
        store = self._open()
        # Before anything is read: what is committed meanwhile is looked for again next time.
        mark = store.mark()
        found = {user: kept.past for user in pseudonyms if (kept := self._kept.get(user)) and kept.mark == mark}
        asked = [user for user in pseudonyms if user not in found]
        if asked:
            found |= self._read(store, asked, mark)
        return found

    def repeatable(self, allowed: Mapping[str, Collection[str]]) -> dict[str, set[str]]:
        """Items that may come again for each user, see `repeatable`; of users that `read` was called for just now.

        Args:
            allowed: By pseudonym the types that may come again.

        Raises:
            InteractionError: The store cannot be read.
        """
        users = [user for user in allowed if user in self._kept]
        if not users:
            return {}
        store = self._open()
        with store.database.reading() as connection:
            store.check(connection)
            numbers = [self._kept[user].change[0] for user in users]
            columns = interaction_reads.window(connection, numbers, WINDOW)
            pairs = interaction_reads.seen_pairs(connection, numbers)
        nothing: Pairs = ([], [])
        return {
            user: repeatable(columns, n, pairs.get(number, nothing), allowed[user])
            for n, (user, number) in enumerate(zip(users, numbers, strict=True))
        }

    def follow(self, keys: UserKeys) -> None:
        """Take the keys in force; where they are new, what is kept by pseudonyms of the old ones is forgotten."""
        if keys.follow(lambda: self._open().database):
            self._kept = self._nothing_kept()

    def forget_erased(self) -> None:
        """Forget all where somebody was erased since the last look.

        Raises:
            InteractionError: The store cannot be read.
        """
        store = self._open()
        if store.mark() != self._mark:
            with store.database.reading() as connection:
                self._drop_erased(interaction_reads.erasures(connection))

    def _read(self, store: InteractionStore, pseudonyms: list[str], mark: int) -> dict[str, UserPast]:
        with store.database.reading() as connection:
            store.check(connection)
            if mark != self._mark:
                self._drop_erased(interaction_reads.erasures(connection))
            changes = interaction_reads.change_numbers(connection, pseudonyms)
            found = {user: NOBODY for user in pseudonyms if user not in changes}
            for user, change in changes.items():
                if (kept := self._kept.get(user)) and kept.change == change:
                    self._kept[user], found[user] = kept._replace(mark=mark), kept.past
            stale = [user for user in pseudonyms if user not in found]
            columns, seen = interaction_reads.pasts(connection, [changes[user][0] for user in stale], WINDOW)
        self._mark = mark
        for user, past in zip(stale, pasts_of(columns, seen, self._rules), strict=True):
            found[user] = past
            self._kept.pop(user, None)
            if past.size <= self._most:
                self._kept[user] = _Kept(mark, changes[user], past)
        return found

    def _drop_erased(self, erasures: Change) -> None:
        if erasures != self.erasures:
            self._kept = self._nothing_kept()
            self.erasures = erasures

    def _nothing_kept(self) -> LRUCache[str, _Kept]:
        return LRUCache(self._most, lambda kept: max(kept.past.size, 1))


def pasts_of(columns: InteractionColumns, seen: Sequence[Collection[str]], rules: HistoryRules) -> list[UserPast]:
    """The past of each user, in the order of the columns.

    Args:
        columns: The newest interactions of each user, newest first.
        seen: [users] every item that each had to do with.
        rules: How interactions become weights.

    Raises:
        ConfigError: The rules need statistics and have none.
    """
    found = weigh(columns, rules)
    weights, newer, turned = found.weight, found.newer.astype(np.float64), turned_of(found)
    names = columns.subjects
    codes = columns.subject[found.index]
    subjects = list(map(names.__getitem__, codes.tolist()))
    is_item = columns.is_item[codes]
    # Asked of all users at once: what is rarely so costs more to ask of each.
    any_texts, any_heavy = not is_item.all(), float(np.abs(weights).max(initial=0.0)) > _HEAVIEST
    times = columns.time_us[found.index].tolist()
    pasts = []
    for (start, end), saw in zip(pairwise(found.offsets.tolist()), seen, strict=True):
        own, are_items = subjects[start:end], is_item[start:end].copy()
        known = set(compress(own, are_items.tolist()) if any_texts else own)
        others = [] if known.issuperset(saw) else [item for item in saw if item not in known]
        bounded = _bounded(weights[start:end]) if any_heavy else weights[start:end].copy()
        past = UserPast(own, are_items, bounded, newer[start:end].copy(), turned[start:end].copy(), others)
        past.newest_us = max(times[start:end], default=0)
        pasts.append(past)
    return pasts


def turned_of(found: WeightedEvents) -> Floats:
    """[kept] how much each interaction counts apart from its age: the factor of repeats.

    Types with a positive base weight count, whatever a rating says: counts of who turned to what know nothing of
    liking.
    """
    turned: Floats = found.factors["repeats"].copy()
    turned[found.factors["base"] <= 0] = 0.0
    return turned


def repeatable(columns: InteractionColumns, user: int, saw: Pairs, types: Collection[str]) -> set[str]:
    """Items of which only interactions of these types are known.

    Of the newest interactions the types are known, of everything the kinds. An item of which only the kind `seen` is
    known may have been anything, so it stays out.

    Args:
        columns: The newest interactions of some users.
        user: Place of the user in the columns.
        saw: Items that the user had to do with, and their kinds.
        types: That may come again.
    """
    own = slice(int(columns.offsets[user]), int(columns.offsets[user + 1]))
    allowed = np.array([name in types for name in columns.types], np.bool_)[columns.type[own]]
    subjects = columns.subject[own]
    names = columns.subjects
    known = {names[n] for n in np.unique(subjects).tolist() if columns.is_item[n]}
    refused = {names[n] for n in np.unique(subjects[~allowed]).tolist()}
    kinds = {kind for name, kind in KINDS.items() if name in types}
    for item, kind in zip(*saw, strict=True):
        if kind not in kinds and not (kind not in KINDS.values() and item in known):
            refused.add(item)
    return set(saw[0]) - refused


def history_of(columns: InteractionColumns, rules: HistoryRules) -> UserHistory:
    """The interactions of a single user with their weights and factors, and what was left out.

    Raises:
        ConfigError: The rules need statistics and have none.
    """
    found = weigh(columns, rules)
    entries = []
    for place, index in enumerate(found.index.tolist()):
        subject = int(columns.subject[index])
        name, is_item = columns.subjects[subject], bool(columns.is_item[subject])
        entry = HistoryEntry(
            type=columns.types[columns.type[index]],
            timestamp=int(columns.time_us[index]) / 1e6,
            weight=float(found.weight[place]),
            factors={factor: float(found.factors[factor][place]) for factor in FACTORS},
            item=name if is_item else None,
            text=None if is_item else name,
        )
        entries.append(entry)
    counts = msgspec.structs.asdict(found.counters)
    left_out = {name: counts[name] for name in _LEFT_OUT if counts[name]}
    return UserHistory(rules.version, counts["read"], left_out, entries)


def _bounded(weights: Floats) -> Floats:
    """The same ratios with weights that a request may have."""
    heaviest = float(np.abs(weights).max(initial=0.0))
    bounded: Floats = weights.copy() if heaviest <= _HEAVIEST else weights * (1.0 / heaviest)
    return bounded


#: The past of somebody of whom nothing is known.
NOBODY: Final = UserPast([], np.empty(0, np.bool_), np.empty(0), np.empty(0), np.empty(0), [])
