"""The queries that read from the interaction store."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import chain, groupby
from operator import itemgetter
from typing import Any, Final

import numpy as np
import sqlalchemy as sa

from recserve_server_ext.event_columns import EventColumns, EventRow, columns_of, event_columns
from recserve_server_ext.interaction import MICROSECONDS
from recserve_server_ext.interaction_tables import erased, events, seen, users

_OF_HISTORY: Final = tuple(events.c[name] for name in EventRow._fields)
_CHUNK: Final = 1000
Change = tuple[int, int]


def window_query(pseudonyms: Sequence[str], limit: int, dialect: str) -> sa.Select[Any]:
    """Number of the user and the columns of `EventRow` of the newest interactions of each of these users.

    Both forms walk the index (user, time, number) backwards and stop after `limit`: what a user did before costs
    nothing. SQLite has no LATERAL, and PostgreSQL does not turn the correlated IN into a look-up.
    """
    chosen = users.c.pseudonym.in_(pseudonyms)
    newest_first = (events.c.time_us.desc(), events.c.number.desc())
    if dialect == "sqlite":
        inner = events.alias("newest")
        newest = sa.select(inner.c.number).where(inner.c.user == users.c.number)
        newest = newest.order_by(inner.c.time_us.desc(), inner.c.number.desc()).limit(limit).correlate(users)
        query = sa.select(users.c.pseudonym, *_OF_HISTORY).join_from(users, events, events.c.number.in_(newest))
        return query.where(chosen).order_by(users.c.number, *newest_first)
    lateral = sa.select(events.c.number, *_OF_HISTORY).where(events.c.user == users.c.number)
    found = lateral.order_by(*newest_first).limit(limit).lateral("newest")
    columns = [found.c[name] for name in EventRow._fields]
    query = sa.select(users.c.pseudonym, *columns).join_from(users, found, sa.true()).where(chosen)
    return query.order_by(users.c.number, found.c.time_us.desc(), found.c.number.desc())


def window(connection: sa.Connection, pseudonyms: Sequence[str], limit: int) -> EventColumns:
    """The newest interactions of each user, newest first; users in the order given, unknown ones have none."""
    if not pseudonyms:
        return event_columns([])
    rows = connection.execute(window_query(list(pseudonyms), limit, connection.dialect.name)).all()
    slices = _slices(rows)
    of_user = [slices.get(pseudonym, (0, 0)) for pseudonym in pseudonyms]
    ordered = list(chain.from_iterable(rows[start:end] for start, end in of_user))
    offsets = np.cumsum([0, *(end - start for start, end in of_user)])
    _, *fields = zip(*ordered, strict=True) if ordered else [()] * (1 + len(EventRow._fields))
    return columns_of(offsets, fields)


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


def seen_pairs(connection: sa.Connection, pseudonyms: Sequence[str]) -> dict[str, tuple[list[str], list[str]]]:
    """By user: items and kinds of everything that the user saw, two lists of the same length."""
    query = sa.select(users.c.pseudonym, seen.c.item, seen.c.kind)
    query = query.join_from(users, seen, seen.c.user == users.c.number).where(users.c.pseudonym.in_(pseudonyms))
    rows = connection.execute(query.order_by(users.c.number)).all()
    found = {}
    for pseudonym, (start, end) in _slices(rows).items():
        _, items, kinds = zip(*rows[start:end], strict=True)
        found[pseudonym] = list(items), list(kinds)
    return found


def _slices(rows: Sequence[Any]) -> dict[str, tuple[int, int]]:
    """Where the rows of each user are, whose rows are neighbours; the first column is the pseudonym."""
    slices = {}
    start = 0
    for pseudonym, of_user in groupby(map(itemgetter(0), rows)):
        end = start + sum(1 for _ in of_user)
        slices[pseudonym] = start, end
        start = end
    return slices


def change_numbers(connection: sa.Connection, pseudonyms: Sequence[str]) -> dict[str, Change]:
    """What tells a state of each of these users from every other one; unknown users are left out."""
    query = sa.select(users.c.pseudonym, users.c.number, users.c.changes).where(users.c.pseudonym.in_(pseudonyms))
    return {pseudonym: (number, changes) for pseudonym, number, changes in connection.execute(query)}


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
