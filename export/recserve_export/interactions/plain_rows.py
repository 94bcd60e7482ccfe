"""Rows of nothing but a user, an item, a time, a type and a value, converted a column at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import compress, repeat
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
import numpy as np

from recserve_export.tabular.values import trimmed
from recserve_server_ext.common.arrays import Floats
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.interactions.interaction import MAX_ITEM_LENGTH, Content
from recserve_server_ext.interactions.writes import BulkRow

#: Most entries of each cache, so that memory does not grow with the file.
_CACHED: Final = 200_000
#: Most digits of a number of 64 bits.
_DIGITS: Final = 19
_SIMPLE: Final = (str, int, float, bool, Decimal, type(None))
T = TypeVar("T")
Values = Mapping[str, Any]
#: Type, value, and the end of the JSON that the event id is a hash of.
_Ended = tuple[str, float | None, str]


class What(NamedTuple):
    """Type and value of an interaction, checked."""

    type: str
    value: float | None


class PlainRows:
    """Converts the rows that are plainly right.

    A log has far fewer users, types and ratings than rows: what the checks made of one is kept for the next row that
    has the same.
    """

    def __init__(
        self,
        *,
        columns: tuple[str, str],
        what: Sequence[str],
        nulls: frozenset[str],
        trims: bool,
        latest_s: float,
        user_of: Callable[[Values], str | None],
        what_of: Callable[[Values], What | None],
        seconds_of: Callable[[Sequence[int], Sequence[Values]], Floats],
    ) -> None:
        """
        Args:
            columns: Columns of the user and of the item.
            what: Columns of the type and of the value, as far as there are such.
            nulls: Texts that stand for a missing item.
            trims: Whether white space around an item id is no part of it.
            latest_s: Newest accepted timestamp, in seconds since 1970.
            user_of: The pseudonym of a row, `None` where it has no usable user.
            what_of: The type and the value of a row, `None` where they are not usable.
            seconds_of: Seconds since 1970 of rows with these numbers; NaN for what is no time.
        """
        self._user, self._item = columns
        self._what = what
        self._nulls = nulls
        self._trims = trims
        self._latest_s = latest_s
        self._user_of = user_of
        self._what_of = what_of
        self._seconds_of = seconds_of
        self._users: dict[Hashable, str | None] = {}
        self._whats: dict[Hashable, _Ended | None] = {}

    def __call__(self, numbers: Sequence[int], rows: Sequence[Values]) -> list[BulkRow | None]:
        """The rows of the store, in order; `None` for a row that has to be looked at by itself.

        Args:
            numbers: Number of each row.
            rows: Column -> value.
        """
        users = _found(self._users, _keys(rows, [self._user]), rows, self._user_of)
        whats = _found(self._whats, _keys(rows, self._what), rows, self._ended)
        items = self._items([row.get(self._item) for row in rows])
        seconds = self._seconds_of(numbers, rows)
        with np.errstate(invalid="ignore"):
            is_time = (seconds >= 0) & (seconds <= self._latest_s)
        time_us = np.rint(np.where(is_time, seconds, 0) * MICROSECONDS).astype(np.int64).tolist()
        if is_time.all() and not any(None in column for column in (users, items, whats)):
            return list(_made(users, items, whats, time_us))
        right = [
            known and None not in found for known, *found in zip(is_time.tolist(), users, items, whats, strict=True)
        ]
        made = _made(*(list(compress(column, right)) for column in (users, items, whats, time_us)))
        return [next(made) if one else None for one in right]

    def _items(self, given: Sequence[Any]) -> Sequence[str | None]:
        if set(map(type, given)) == {str}:
            joined = "".join(given)
            is_plain = joined.isprintable() and '"' not in joined and "\\" not in joined
            is_plain = is_plain and not (self._trims and " " in joined)
            sizes = set(map(len, given))
            if is_plain and self._nulls.isdisjoint(given) and min(sizes) > 0 and max(sizes) <= MAX_ITEM_LENGTH:
                return given
        return [self._one_item(item) for item in given]

    def _one_item(self, item: Any) -> str | None:
        if type(item) is int:
            return str(item)
        if type(item) is str and self._trims:
            item = trimmed(item)
        # JSON would write the others in another way.
        is_plain = type(item) is str and item.isprintable() and '"' not in item and "\\" not in item
        return item if is_plain and item not in self._nulls and 0 < len(item) <= MAX_ITEM_LENGTH else None

    def _ended(self, values: Values) -> _Ended | None:
        """Type and value, and the end of the JSON that the event id is a hash of; see `content_id`."""
        what = self._what_of(values)
        if what is None:
            return None
        content = msgspec.json.encode(Content(type=what.type, value=what.value)).decode()
        return what.type, what.value, content.removeprefix("{")


def plain_numbers(values: Sequence[Any]) -> Floats | None:
    """Numbers or decimal digits as floats; `None` where something else is among them."""
    types = set(map(type, values))
    if types == {str}:
        joined = "".join(values)
        has_digits = joined.isdecimal() and joined.isascii() and min(map(len, values)) > 0
        if not has_digits or max(map(len, values)) > _DIGITS:
            return None
    elif not types <= {int, float}:
        return None
    try:
        return np.fromiter(map(float, values), np.float64, len(values))
    except OverflowError:
        return None


def _keys(rows: Sequence[Values], columns: Sequence[str]) -> Sequence[Hashable]:
    """What tells the values of some columns apart; strings stand for themselves, and True is not 1."""
    if not columns:
        return [None] * len(rows)
    if len(columns) == 1:
        (name,) = columns
        return [one if type(one) is str else _key(one) for one in [row.get(name) for row in rows]]
    return [tuple(_key(row.get(name)) for name in columns) for row in rows]


def _key(value: Any) -> Hashable:
    return (type(value), value if type(value) in _SIMPLE else repr(value))


def _found(
    known: dict[Hashable, T], keys: Sequence[Hashable], rows: Sequence[Values], make: Callable[[Values], T]
) -> list[T]:
    """What each key stands for; what is not known yet is made of the first row that has the key."""
    if len(known) >= _CACHED:
        known.clear()
    try:
        return [known[key] for key in keys]
    except KeyError:
        for place, key in enumerate(keys):
            if key not in known:
                known[key] = make(rows[place])
        return [known[key] for key in keys]


def _made(
    users: Sequence[Any], items: Sequence[Any], whats: Sequence[Any], times_us: Sequence[int]
) -> Iterator[BulkRow]:
    """Rows of columns without `None`."""
    digest = hashlib.sha256
    ids = [
        digest(f'{{"item":"{item}","time_us":{time_us},{end}'.encode()).hexdigest()
        for item, time_us, (_, _, end) in zip(items, times_us, whats, strict=True)
    ]
    types, values = [what[0] for what in whats], [what[1] for what in whats]
    none = repeat(None)
    return map(
        BulkRow._make,
        zip(users, ids, times_us, types, items, none, values, none, none, none, none, none, none, strict=False),
    )
