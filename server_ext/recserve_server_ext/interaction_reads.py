"""The queries that read from the interaction store."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from itertools import chain
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


def _window_query(dialect: str) -> sa.Select[Any]:
    """Number of the user and the columns of `EventRow` of the `most` newest interactions of each of some users.

    Both forms walk the index (user, time, number) backwards and stop after `most`: what a user did before costs
    nothing. SQLite has no LATERAL, and PostgreSQL does not turn the correlated IN into a look-up.
    """
    chosen, most = users.c.number.in_(sa.bindparam("numbers", expanding=True)), sa.bindparam("most", type_=sa.Integer)
    newest_first = (events.c.time_us.desc(), events.c.number.desc())
    if dialect == "sqlite":
        inner = events.alias("newest")
        newest = sa.select(inner.c.number).where(inner.c.user == users.c.number)
        newest = newest.order_by(inner.c.time_us.desc(), inner.c.number.desc()).limit(most).correlate(users)
        query = sa.select(users.c.number, *_OF_HISTORY).join_from(users, events, events.c.number.in_(newest))
        return query.where(chosen).order_by(users.c.number, *newest_first)
    lateral = sa.select(events.c.number, *_OF_HISTORY).where(events.c.user == users.c.number)
    found = lateral.order_by(*newest_first).limit(most).lateral("newest")
    columns = [found.c[name] for name in EventRow._fields]
    query = sa.select(users.c.number, *columns).join_from(users, found, sa.true()).where(chosen)
    return query.order_by(users.c.number, found.c.time_us.desc(), found.c.number.desc())


# Made once: for a batch of users with short histories, making a statement takes as long as running it.
WINDOW_QUERIES: Final = {dialect: _window_query(dialect) for dialect in ("sqlite", "postgresql")}
_SEEN_PAIRS: Final = (
    sa.select(seen.c.user, seen.c.item, seen.c.kind)
    .where(seen.c.user.in_(sa.bindparam("numbers", expanding=True)))
    .order_by(seen.c.user)
)
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
    slices = _slices(rows)
    of_user = [(0, 0) if number is None else slices.get(number, (0, 0)) for number in numbers]
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


def seen_pairs(connection: sa.Connection, numbers: Sequence[int]) -> dict[int, tuple[list[str], list[str]]]:
    """By number of the user: items and kinds of everything that the user saw, two lists of the same length."""
    rows = _tuples(connection, _SEEN_PAIRS, {"numbers": list(numbers)})
    found = {}
    for number, (start, end) in _slices(rows).items():
        _, items, kinds = zip(*rows[start:end], strict=True)
        found[number] = list(items), list(kinds)
    return found


def _tuples(connection: sa.Connection, query: sa.Select[Any], parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    """All rows as the driver gives them: SQLAlchemy's own take twice as long. Not for columns it has to convert."""
    with closing(connection.execute(query, parameters)) as result:
        return list(result.cursor.fetchall())


def _slices(rows: Sequence[tuple[Any, ...]]) -> dict[int, tuple[int, int]]:
    """Where the rows of each user are, whose rows are neighbours; the first column is the user's number."""
    numbers = np.fromiter(map(itemgetter(0), rows), np.int64, len(rows))
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    ends = np.append(starts, len(rows))[1:]
    return dict(zip(numbers[starts].tolist(), zip(starts.tolist(), ends.tolist(), strict=True), strict=True))


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
