"""The queries that read from the interaction store."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from itertools import chain
from typing import Any, Final

import msgspec
import numpy as np
import sqlalchemy as sa

from recserve_server_ext.event_columns import EventColumns, EventRow, columns_of, event_columns
from recserve_server_ext.interaction import MICROSECONDS
from recserve_server_ext.interaction_tables import erased, events, seen, users

_OF_HISTORY: Final = tuple(events.c[name] for name in EventRow._fields)
#: What the index holds of that, and the number; texts are read by it.
_PARTS: Final = ("number", *(name for name in EventRow._fields if name != "text"))
_CHUNK: Final = 1000
_Measure = list[float | None]
_Past = tuple[list[int], list[int], list[str], list[str | None], _Measure, _Measure, _Measure, _Measure]
_PAST: Final = msgspec.json.Decoder(_Past)
_NO_PAST: Final[_Past] = ([], [], [], [], [], [], [], [])
_ITEMS: Final = msgspec.json.Decoder(list[str])
Change = tuple[int, int]


def _window_query(dialect: str) -> sa.Select[Any]:
    """Number of the user and a JSON array with a column each of `_PARTS`, of the `most` newest interactions of each.

    It walks the index (user, time, number, ...) backwards and stops after `most`: what a user did before costs nothing,
    and the rows themselves are not looked at. One text a user instead of a tuple an interaction, since most of the time
    went into these: a past of 50 took 93 us as rows and takes 24 us as JSON from the index (both SQLite).
    """
    inner = events.alias("newest")
    chosen = sa.select(*(inner.c[name] for name in _PARTS)).where(inner.c.user == users.c.number)
    chosen = chosen.order_by(inner.c.time_us.desc(), inner.c.number.desc())
    found = chosen.limit(sa.bindparam("most", type_=sa.Integer)).correlate(users).subquery("found")
    if dialect == "sqlite":
        packed: sa.ColumnElement[str] = sa.func.json_array(*(_sqlite_array(found.c[name]) for name in _PARTS))
    else:
        columns = (sa.func.coalesce(sa.func.json_agg(found.c[name]), sa.text("'[]'")) for name in _PARTS)
        packed = sa.cast(sa.func.json_build_array(*columns), sa.Text)
    past = sa.select(packed).correlate(users).scalar_subquery()
    return sa.select(users.c.number, past).where(users.c.number.in_(sa.bindparam("numbers", expanding=True)))


def _sqlite_array(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """A JSON array; SQLite's own would keep 15 digits of a number with a fraction."""
    if not isinstance(column.type, sa.Double):
        return sa.func.json_group_array(column)
    exact = sa.func.printf("%!.17g", column, type_=sa.Text)
    listed = sa.func.group_concat(sa.case((column.is_(None), "null"), else_=exact), type_=sa.Text)
    return sa.func.json(sa.literal("[") + sa.func.coalesce(listed, "") + sa.literal("]"))


# Made once: for a batch of users with short histories, making a statement takes as long as running it.
WINDOW_QUERIES: Final = {dialect: _window_query(dialect) for dialect in ("sqlite", "postgresql")}
_TEXTS: Final = sa.select(events.c.number, events.c.text).where(
    events.c.number.in_(sa.bindparam("numbers", expanding=True))
)


def _seen_query(dialect: str) -> sa.Select[Any]:
    """Number of the user, a kind, and a JSON array of the items."""
    items = (
        sa.func.json_group_array(seen.c.item)
        if dialect == "sqlite"
        else sa.cast(sa.func.json_agg(seen.c.item), sa.Text)
    )
    chosen = seen.c.user.in_(sa.bindparam("numbers", expanding=True))
    return sa.select(seen.c.user, seen.c.kind, items).where(chosen).group_by(seen.c.user, seen.c.kind)


SEEN_QUERIES: Final = {dialect: _seen_query(dialect) for dialect in ("sqlite", "postgresql")}
_CHANGES: Final = sa.select(users.c.pseudonym, users.c.number, users.c.changes).where(
    users.c.pseudonym.in_(sa.bindparam("pseudonyms", expanding=True))
)


def window(connection: sa.Connection, numbers: Sequence[int | None], limit: int) -> EventColumns:
    """The newest interactions of each user, newest first; users by number in the order given, None has none."""
    wanted = [number for number in numbers if number is not None]
    if not wanted:
        return event_columns([[]] * len(numbers))
    query = WINDOW_QUERIES[connection.dialect.name]
    rows = _tuples(connection, query, {"numbers": wanted, "most": limit})
    past_of = {number: _PAST.decode(past) for number, past in rows}
    pasts = [past_of.get(number, _NO_PAST) for number in numbers]
    offsets = np.cumsum([0, *(len(past[0]) for past in pasts)])
    found, times, types, items, *measures = (list(chain.from_iterable(part)) for part in zip(*pasts, strict=True))
    return columns_of(offsets, [times, types, items, _texts(connection, found, items), *measures])


def _texts(connection: sa.Connection, numbers: list[int], items: list[str | None]) -> list[str | None]:
    """The texts of the interactions that have no item."""
    of_text = [number for number, item in zip(numbers, items, strict=True) if item is None]
    if not of_text:
        return [None] * len(numbers)
    text_of: dict[int, str] = {}
    for start in range(0, len(of_text), _CHUNK):
        rows = _tuples(connection, _TEXTS, {"numbers": of_text[start : start + _CHUNK]})
        text_of.update(rows)
    return [text_of.get(number) for number in numbers]


def between(connection: sa.Connection, start_us: int, end_us: int) -> EventColumns:
    """All interactions with start <= timestamp < end."""
    query = sa.select(events.c.user, *_OF_HISTORY)
    query = query.where(events.c.time_us >= start_us, events.c.time_us < end_us).order_by(events.c.user)
    of_user: dict[int, list[EventRow]] = {}
    for user, *row in connection.execution_options(yield_per=_CHUNK).execute(query):
        of_user.setdefault(user, []).append(EventRow(*row))
    return event_columns(of_user.values())


def seen_items(connection: sa.Connection, pseudonyms: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """By user and item: the last time of each kind, in seconds since 1970."""
    query = sa.select(users.c.pseudonym, seen.c.item, seen.c.kind, seen.c.last_us)
    query = query.join_from(users, seen, seen.c.user == users.c.number).where(users.c.pseudonym.in_(pseudonyms))
    found: dict[str, dict[str, dict[str, float]]] = {pseudonym: {} for pseudonym in pseudonyms}
    for pseudonym, item, kind, last_us in connection.execute(query):
        found[pseudonym].setdefault(item, {})[kind] = last_us / MICROSECONDS
    return found


def seen_pairs(connection: sa.Connection, numbers: Sequence[int]) -> dict[int, tuple[list[str], list[str]]]:
    """By number of the user: items and kinds of everything that the user saw, two lists of the same length."""
    found: dict[int, tuple[list[str], list[str]]] = {}
    for number, kind, packed in _tuples(connection, SEEN_QUERIES[connection.dialect.name], {"numbers": list(numbers)}):
        items = _ITEMS.decode(packed)
        of_user = found.setdefault(number, ([], []))
        of_user[0].extend(items)
        of_user[1].extend([kind] * len(items))
    return found


def _tuples(connection: sa.Connection, query: sa.Select[Any], parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    """All rows as the driver gives them: SQLAlchemy's own take twice as long. Not for columns it has to convert."""
    with closing(connection.execute(query, parameters)) as result:
        return list(result.cursor.fetchall())


def change_numbers(connection: sa.Connection, pseudonyms: Sequence[str]) -> dict[str, Change]:
    """What tells a state of each of these users from every other one, its number first; unknown users are left out."""
    found = connection.execute(_CHANGES, {"pseudonyms": list(pseudonyms)})
    return {pseudonym: (number, changes) for pseudonym, number, changes in found}


def sample_users(connection: sa.Connection, most: int, seed: int) -> list[str]:
    """Pseudonyms of at most so many users, drawn evenly, in the order of their numbers."""
    numbers = np.fromiter(connection.execute(sa.select(users.c.number).order_by(users.c.number)).scalars(), np.int64)
    if len(numbers) > most:
        numbers = np.sort(np.random.default_rng(seed).choice(numbers, most, replace=False))
    found: list[str] = []
    for start in range(0, len(numbers), _CHUNK):
        chosen = users.c.number.in_(numbers[start : start + _CHUNK].tolist())
        found += connection.execute(sa.select(users.c.pseudonym).where(chosen).order_by(users.c.number)).scalars()
    return found


def erasures(connection: sa.Connection) -> Change:
    """Changes whenever a user is erased."""
    query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.max(erased.c.until_us), 0))
    return tuple(connection.execute(query.select_from(erased)).one())


def all_interactions(connection: sa.Connection, pseudonym: str | None = None) -> Generator[dict[str, Any], None, None]:
    """Interactions in the order they came, as the fields of `Interaction` that are given; of all users or one."""
    columns = [column for column in events.c if column.name not in ("number", "user")]
    query = sa.select(users.c.pseudonym.label("user"), *columns).join_from(
        users, events, events.c.user == users.c.number
    )
    if pseudonym is not None:
        query = query.where(users.c.pseudonym == pseudonym)
    streaming = connection.execution_options(yield_per=_CHUNK)
    # Closed also when not read to its end: an open cursor would keep its connection at this state of the database.
    with streaming.execute(query.order_by(events.c.number)) as found:
        for row in found.mappings():
            fields = {name: value for name, value in row.items() if value is not None}
            fields["timestamp"] = fields.pop("time_us") / MICROSECONDS
            yield fields
