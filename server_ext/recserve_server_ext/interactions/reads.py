"""The queries that read from the interaction store."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from functools import cache, partial
from itertools import accumulate, chain
from operator import attrgetter
from typing import Any, Final

import msgspec
import numpy as np
import sqlalchemy as sa

from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.interactions.columns import InteractionColumns, InteractionRow, columns_of, interaction_columns
from recserve_server_ext.interactions.interaction import MEASURES
from recserve_server_ext.interactions.tables import interactions, seen, users
from recserve_server_ext.storage.database import fetched

_OF_HISTORY: Final = tuple(interactions.c[name] for name in InteractionRow._fields)
_CHUNK: Final = 1000
#: Interactions of one part of `item_columns`.
_PART: Final = 5000
#: Columns of some interactions at a time.
Parts = Generator[list[list[Any]], None, None]
_Measure = list[float | None]
_MEASURED: Final = msgspec.json.Decoder(tuple[_Measure, _Measure, _Measure, _Measure])
_ITEMS: Final = msgspec.json.Decoder(list[str])


class _Past(msgspec.Struct, array_like=True, gc=False):
    """The newest interactions of a user, newest last.

    Attributes:
        times: [interactions] microseconds since 1970.
        types: [interactions].
        items: [interactions] item ids; `None` for an interaction about a text.
        texts: Numbers of the interactions about a text.
        measured: How many have a value, a duration, a price or a quantity.
        seen: Items the user had to do with before these interactions, once for each kind; empty unless asked for.
    """

    times: list[int] = []
    types: list[str] = []
    items: list[str | None] = []
    texts: list[int] = []
    measured: int = 0
    seen: list[str] = []

    def cut(self, most: int) -> None:
        """Leave the newest ones; items of the others were seen."""
        self.seen += filter(None, self.items[:-most])
        texts = self.items[-most:].count(None)
        self.times, self.types, self.items = self.times[-most:], self.types[-most:], self.items[-most:]
        self.texts = self.texts[len(self.texts) - texts :]


_PAST: Final = msgspec.json.Decoder(_Past)
_NO_PAST: Final = _Past()


#: The numbers of the JSON array `numbers`: a list that is expanded would make a statement for each length.
_LISTED: Final = {
    "sqlite": sa.text("SELECT value FROM json_each(:numbers)"),
    "postgresql": sa.text("SELECT CAST(value AS bigint) FROM json_array_elements_text(CAST(:numbers AS json))"),
}
#: Before and after any timestamp.
_FIRST_US, _LAST_US = (sa.literal(us, sa.BigInteger) for us in (-(2**63), 2**63 - 1))


# Statements are made once: for users with short histories, making one takes as long as running it.


@cache
def window_query(dialect: str, *, with_seen: bool, is_past: bool = False) -> sa.Select[Any]:
    """Number of each user and a `_Past` of the `most` newest interactions as JSON.

    It walks the index (user, time, number, ...) from the first time that counts: older interactions cost next to
    nothing, and the rows themselves are not read. It gives one text a user, since most of the time went into a tuple
    for each interaction. Measures are only counted: each gathered column costs as much as finding the rows, and most
    interactions have none. With `is_past` it takes those before the time `before_us`.
    """
    found = newest(dialect, "type", "item", *MEASURES, is_past=is_past)
    parts = [gathered(dialect, found.c[name]) for name in ("time_us", "type", "item")]
    parts.append(gathered(dialect, found.c.number, found.c.item.is_(None)))
    parts.append(sa.func.count(sa.func.coalesce(*(found.c[name] for name in MEASURES))))
    if with_seen:
        # What was seen last since then is among these interactions.
        since = sa.func.coalesce(sa.func.min(found.c.time_us), _LAST_US)
        items = sa.select(gathered(dialect, seen.c.item)).where(seen.c.user == users.c.number, seen.c.last_us < since)
        parts.append(items.correlate(users, found).scalar_subquery())
    return of_users(dialect, parts)


@cache
def _measures_query(dialect: str, *, is_past: bool = False) -> sa.Select[Any]:
    """Number of each user and a JSON array of the columns `MEASURES` of the same interactions."""
    found = newest(dialect, *MEASURES, is_past=is_past)
    exact = _sqlite_numbers if dialect == "sqlite" else partial(gathered, dialect)
    return of_users(dialect, [exact(found.c[name]) for name in MEASURES])


def newest(dialect: str, *names: str, is_past: bool = False, commented: bool = False) -> sa.Subquery:
    """The `most` newest interactions of a user with these columns, and others of the same time as the oldest of them.

    They are in the order of their times and numbers: all, or those with a text about an item.
    """

    def chosen(name: str, *columns: str) -> tuple[sa.FromClause, sa.Select[Any]]:
        of = interactions.alias(name)
        query = sa.select(*(of.c[name] for name in columns)).where(of.c.user == users.c.number)
        if is_past:
            query = query.where(of.c.time_us < sa.bindparam("before_us", type_=sa.BigInteger))
        if commented:
            query = query.where(of.c.item.is_not(None), of.c.text.is_not(None))
        return of, query.correlate(users)

    of, oldest = chosen("oldest", "time_us")
    oldest = oldest.order_by(of.c.time_us.desc(), of.c.number.desc())
    last = oldest.limit(1).offset(sa.bindparam("most", type_=sa.Integer) - 1).scalar_subquery()
    of, found = chosen("newest", "number", "time_us", *names)
    found = found.where(of.c.time_us >= sa.func.coalesce(last, _FIRST_US))
    # SQLite would gather the rows of an ordered query once more, in twice the time; the index that it walks is in this
    # order.
    return (found if dialect == "sqlite" else found.order_by(of.c.time_us, of.c.number)).subquery("found")


def of_users(dialect: str, parts: Sequence[sa.ColumnElement[Any]]) -> sa.Select[Any]:
    """Number of each user of the JSON array `numbers`, and the parts as one JSON array."""
    pack = sa.func.json_array if dialect == "sqlite" else sa.func.json_build_array
    past = sa.select(sa.cast(pack(*parts), sa.Text)).correlate(users).scalar_subquery()
    return sa.select(users.c.number, past).where(users.c.number.in_(_LISTED[dialect]))


def gathered(
    dialect: str, column: sa.ColumnElement[Any], where: sa.ColumnElement[bool] | None = None
) -> sa.ColumnElement[Any]:
    """A JSON array of a column; SQLite rounds numbers with a fraction."""
    array: Any = sa.func.json_group_array(column) if dialect == "sqlite" else sa.func.json_agg(column)
    if where is not None:
        array = array.filter(where)
    return array if dialect == "sqlite" else sa.func.coalesce(array, sa.text("'[]'"))


def _sqlite_numbers(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """A JSON array of numbers to the last digit; SQLite's own function keeps 15 digits of a fraction."""
    exact = sa.func.printf("%!.17g", column, type_=sa.Text)
    listed = sa.func.group_concat(sa.case((column.is_(None), "null"), else_=exact), type_=sa.Text)
    return sa.func.json(sa.literal("[") + sa.func.coalesce(listed, "") + sa.literal("]"))


@cache
def _seen_query(dialect: str) -> sa.Select[Any]:
    """Number of each user, a kind, and a JSON array of the items."""
    items = sa.cast(gathered(dialect, seen.c.item), sa.Text)
    chosen = seen.c.user.in_(_LISTED[dialect])
    return sa.select(seen.c.user, seen.c.kind, items).where(chosen).group_by(seen.c.user, seen.c.kind)


@cache
def _texts_query(dialect: str) -> sa.Select[Any]:
    """Number and text of interactions."""
    return sa.select(interactions.c.number, interactions.c.text).where(interactions.c.number.in_(_LISTED[dialect]))


def window(connection: sa.Connection, numbers: Sequence[int | None], limit: int) -> InteractionColumns:
    """The newest interactions of each user, newest first; users by number in the order given, `None` for unknown."""
    return _columns(connection, numbers, limit, with_seen=False)[0]


def pasts(connection: sa.Connection, numbers: Sequence[int], limit: int) -> tuple[InteractionColumns, list[list[str]]]:
    """As `window`, and the items that each user had to do with that are not among these interactions.

    They may name some that are.
    """
    columns, found = _columns(connection, numbers, limit, with_seen=True)
    return columns, [past.seen for past in found]


def window_before(
    connection: sa.Connection, numbers: Sequence[int | None], limit: int, before_us: int
) -> InteractionColumns:
    """As `window`, of the interactions before a time in microseconds since 1970."""
    return _columns(connection, numbers, limit, with_seen=False, before_us=before_us)[0]


def types_before(connection: sa.Connection, numbers: Sequence[int], before_us: int) -> dict[int, dict[str, set[str]]]:
    """By number of the user: the items that each had to do with before a time, and the types of these interactions."""
    of = interactions.c
    query = sa.select(of.user, of.item, of.type).distinct()
    query = query.where(of.user.in_(numbers), of.time_us < before_us, of.item.is_not(None))
    found: dict[int, dict[str, set[str]]] = {}
    for user, item, type_ in connection.execute(query.order_by(of.user, of.item)):
        found.setdefault(user, {}).setdefault(item, set()).add(type_)
    return found


def _columns(
    connection: sa.Connection,
    numbers: Sequence[int | None],
    limit: int,
    *,
    with_seen: bool,
    before_us: int | None = None,
) -> tuple[InteractionColumns, list[_Past]]:
    wanted = [number for number in numbers if number is not None]
    if not wanted:
        return interaction_columns([[]] * len(numbers)), [_NO_PAST] * len(numbers)
    dialect, is_past = connection.dialect.name, before_us is not None
    bound = {"most": limit, "before_us": before_us} if is_past else {"most": limit}
    query = window_query(dialect, with_seen=with_seen, is_past=is_past)
    past_of = {number: _PAST.decode(past) for number, past in fetched(connection, query, {**listed(wanted), **bound})}
    pasts = [_NO_PAST if number is None else past_of.get(number, _NO_PAST) for number in numbers]
    for past in pasts:
        if len(past.times) > limit:
            past.cut(limit)
    offsets = np.array(list(accumulate((len(past.times) for past in pasts), initial=0)), np.int64)
    # Pasts begin with the oldest, columns with the newest: all is turned round at once, users too.
    times, types, items, texts = (
        list(chain.from_iterable(map(attrgetter(name), reversed(pasts))))[::-1]
        for name in ("times", "types", "items", "texts")
    )
    measured = {number: place for place, number in enumerate(numbers) if number is not None and pasts[place].measured}
    measures = np.full((len(MEASURES), len(times)), np.nan)
    if measured:
        query = _measures_query(dialect, is_past=is_past)
        for number, packed in fetched(connection, query, {**listed(measured), **bound}):
            own = np.array(_MEASURED.decode(packed), np.float64)[:, ::-1]
            start, end = offsets[measured[number] : measured[number] + 2]
            measures[:, start:end] = own[:, : end - start]
    return columns_of(offsets, times, types, items, _texts(connection, texts), measures), pasts


def listed(numbers: Iterable[int]) -> dict[str, str]:
    """The parameter of the statements about some users or interactions."""
    return {"numbers": msgspec.json.encode(list(numbers)).decode()}


def _texts(connection: sa.Connection, numbers: list[int]) -> list[str]:
    """The texts of interactions, given by number."""
    if not numbers:
        return []
    text_of = dict(fetched(connection, _texts_query(connection.dialect.name), listed(numbers)))
    return [text_of[number] for number in numbers]


def between(connection: sa.Connection, start_us: int, end_us: int) -> InteractionColumns:
    """All interactions with start <= timestamp < end."""
    query = sa.select(interactions.c.user, *_OF_HISTORY)
    query = query.where(interactions.c.time_us >= start_us, interactions.c.time_us < end_us).order_by(
        interactions.c.user
    )
    of_user: dict[int, list[InteractionRow]] = {}
    for user, *row in connection.execution_options(yield_per=_CHUNK).execute(query):
        of_user.setdefault(user, []).append(InteractionRow(*row))
    return interaction_columns(of_user.values())


def seen_entries(connection: sa.Connection, pseudonym: str) -> list[dict[str, Any]]:
    """All that a user had to do with, as {item, kind, timestamp}: the last time of each kind in seconds since 1970."""
    query = sa.select(seen.c.item, seen.c.kind, seen.c.last_us)
    query = query.join_from(users, seen, seen.c.user == users.c.number).where(users.c.pseudonym == pseudonym)
    return [
        {"item": item, "kind": kind, "timestamp": last_us / MICROSECONDS}
        for item, kind, last_us in connection.execute(query)
    ]


def seen_pairs(connection: sa.Connection, numbers: Sequence[int]) -> dict[int, tuple[list[str], list[str]]]:
    """Items and kinds of all that each user saw, as two lists of the same length, by number of the user."""
    found: dict[int, tuple[list[str], list[str]]] = {}
    query = _seen_query(connection.dialect.name)
    for number, kind, packed in fetched(connection, query, listed(numbers)):
        items = _ITEMS.decode(packed)
        of_user = found.setdefault(number, ([], []))
        of_user[0].extend(items)
        of_user[1].extend([kind] * len(items))
    return found


def item_columns(
    connection: sa.Connection, first: int, last: int, types: Sequence[str], contexts: Sequence[str] = ()
) -> Parts:
    """Interactions about items, of some types, in the order they came, some thousand at a time.

    Each part has the columns number, user, item, time in microseconds, and the value of each context or `None`. The
    database gives a part as one text: row by row, a million rows would each wait for the interpreter lock.

    Args:
        first: Number of the interaction before the first one.
        last: Number of the last one.
    """
    dialect = connection.dialect.name
    values = [
        sa.cast(interactions.c.context[name].as_string(), sa.Text).label(f"of_{n}") for n, name in enumerate(contexts)
    ]
    chosen = sa.select(interactions.c.number, interactions.c.user, interactions.c.item, interactions.c.time_us, *values)
    chosen = chosen.where(interactions.c.number > sa.bindparam("first"), interactions.c.number <= sa.bindparam("last"))
    chosen = chosen.where(interactions.c.type.in_(types), interactions.c.item.is_not(None)).order_by(
        interactions.c.number
    )
    query = in_columns(dialect, chosen)
    for start in range(first, last, _PART):
        packed = connection.execute(query, {"first": start, "last": min(start + _PART, last)}).scalar_one()
        columns: list[list[Any]] = msgspec.json.decode(packed)
        if columns[0]:
            yield columns


def log_columns(connection: sa.Connection, last: int, since_us: int, until_us: int) -> Parts:
    """All interactions about items with since <= timestamp < until, in the order they came, some thousand at a time.

    Each part has the columns user, item, type, time in microseconds, and those of `MEASURES`; see `item_columns`.

    Args:
        last: Number of the last interaction.
    """
    names = ("user", "item", "type", "time_us", *MEASURES)
    chosen = sa.select(*(interactions.c[name] for name in names))
    chosen = chosen.where(interactions.c.number > sa.bindparam("first"), interactions.c.number <= sa.bindparam("last"))
    chosen = chosen.where(interactions.c.time_us >= since_us, interactions.c.time_us < until_us)
    query = in_columns(
        connection.dialect.name, chosen.where(interactions.c.item.is_not(None)).order_by(interactions.c.number)
    )
    for start in range(0, last, _PART):
        packed = connection.execute(query, {"first": start, "last": min(start + _PART, last)}).scalar_one()
        yield msgspec.json.decode(packed)


def in_columns(dialect: str, rows: sa.Select[Any]) -> sa.Select[Any]:
    """The rows of a query as one text: a JSON array of columns, each an array."""
    pack = sa.func.json_array if dialect == "sqlite" else sa.func.json_build_array
    return sa.select(sa.cast(pack(*(gathered(dialect, column) for column in rows.subquery("found").c)), sa.Text))


def sample_users(connection: sa.Connection, most: int, seed: int) -> list[str]:
    """Pseudonyms of at most so many users with interactions, drawn evenly, in the order of their numbers."""
    active = sa.select(users.c.number).where(sa.exists().where(interactions.c.user == users.c.number))
    numbers = np.fromiter(connection.execute(active.order_by(users.c.number)).scalars(), np.int64)
    if len(numbers) > most:
        numbers = np.sort(np.random.default_rng(seed).choice(numbers, most, replace=False))
    found: list[str] = []
    for start in range(0, len(numbers), _CHUNK):
        chosen = users.c.number.in_(numbers[start : start + _CHUNK].tolist())
        found += connection.execute(sa.select(users.c.pseudonym).where(chosen).order_by(users.c.number)).scalars()
    return found


def all_interactions(connection: sa.Connection, pseudonym: str | None = None) -> Generator[dict[str, Any], None, None]:
    """Interactions of one user or of all, in the order they came, as the given fields of `Interaction`."""
    columns = [column for column in interactions.c if column.name not in ("number", "user")]
    query = sa.select(users.c.pseudonym.label("user"), *columns).join_from(
        users, interactions, interactions.c.user == users.c.number
    )
    if pseudonym is not None:
        query = query.where(users.c.pseudonym == pseudonym)
    streaming = connection.execution_options(yield_per=_CHUNK)
    # Closed even if not read to the end: an open cursor would keep its connection at this state of the database.
    with streaming.execute(query.order_by(interactions.c.number)) as found:
        for row in found.mappings():
            fields = {name: value for name, value in row.items() if value is not None}
            fields["timestamp"] = fields.pop("time_us") / MICROSECONDS
            yield fields
