"""The queries that read from the interaction store."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Final

import sqlalchemy as sa

from recserve_server_ext.event_columns import EventColumns, EventRow, event_columns
from recserve_server_ext.interaction import MICROSECONDS
from recserve_server_ext.interaction_tables import events, seen, users

_OF_HISTORY: Final = tuple(events.c[name] for name in EventRow._fields)
_CHUNK: Final = 1000


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
    of_user: dict[str, list[EventRow]] = {pseudonym: [] for pseudonym in pseudonyms}
    for pseudonym, *row in connection.execute(window_query(list(of_user), limit, connection.dialect.name)):
        of_user[pseudonym].append(EventRow(*row))
    return event_columns(of_user[pseudonym] for pseudonym in pseudonyms)


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
