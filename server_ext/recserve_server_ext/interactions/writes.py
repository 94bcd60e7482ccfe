"""The statements of the transactions that record and expire interactions."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from importlib import import_module
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec
import sqlalchemy as sa

from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.config.interactions import InteractionLimits
from recserve_server_ext.interactions.changes import change_numbers
from recserve_server_ext.interactions.erasure import Mark, erased_among
from recserve_server_ext.interactions.interaction import Recorded, Refused
from recserve_server_ext.interactions.tables import answers, interactions, seen, state, users
from recserve_server_ext.storage.database import executed, fetched, next_revision

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

    _Upsert = sqlite.Insert | postgresql.Insert

#: Kind of an entry in the seen items, by type; any other type is `seen`.
KINDS: Final = {"purchase": "bought", "dislike": "rejected"}
_SEEN: Final = "seen"
#: Users of a statement.
_CHUNK: Final = 5000
Key = TypeVar("Key")


def _insert_into(table: sa.Table, dialect: str) -> _Upsert:
    """An insert of a dialect; no other one is imported, and that of PostgreSQL is large."""
    insert: _Upsert = import_module(f"sqlalchemy.dialects.{dialect}").insert(table)
    return insert


@cache
def _upsert_users(dialect: str) -> _Upsert:
    added = {users.c.changes: users.c.changes + sa.bindparam("added")}
    return _insert_into(users, dialect).on_conflict_do_update(index_elements=[users.c.pseudonym], set_=added)


@cache
def _upsert_seen(dialect: str) -> _Upsert:
    return _newer(_insert_into(seen, dialect))


def _newer(insert: _Upsert) -> _Upsert:
    return insert.on_conflict_do_update(
        index_elements=[seen.c.user, seen.c.item, seen.c.kind],
        set_={"last_us": insert.excluded.last_us},
        where=insert.excluded.last_us > seen.c.last_us,
    )


# Made once: making the statements of one interaction takes longer than running them.
#: The elements of a JSON array, in the column `value`.
_LISTED: Final = {"sqlite": "json_each(:listed)", "postgresql": "json_array_elements(CAST(:listed AS json))"}
#: Those pairs of a pseudonym and an event id that are there.
_KNOWN: Final = {
    dialect: sa.text(
        f"SELECT found.pseudonym, old.event_id FROM {listed} AS asked "
        f"JOIN {users.name} AS found ON found.pseudonym = asked.value ->> 0 "
        f'JOIN {interactions.name} AS old ON old."user" = found.number AND old.event_id = asked.value ->> 1'
    )
    for dialect, listed in _LISTED.items()
}
_NEWEST: Final = sa.select(sa.func.max(interactions.c.number))
_IS_NEW: Final = interactions.c.number > sa.bindparam("before")
_ADDED: Final = sa.select(sa.func.count()).where(_IS_NEW)
_NEW: Final = (
    sa.select(interactions.c.user, sa.func.count().label("added"))
    .where(_IS_NEW)
    .group_by(interactions.c.user)
    .subquery("new")
)
_COUNT: Final = (
    sa.update(users).where(users.c.number == _NEW.c.user).values({users.c.changes: users.c.changes + _NEW.c.added})
)
_SLACK: Final = sa.bindparam("slack", type_=sa.Integer)
#: Users whose new interactions took the count of their changes past a multiple of the slack.
_FULL: Final = sa.select(users.c.number).where(
    users.c.number == _NEW.c.user, users.c.changes // _SLACK > (users.c.changes - _NEW.c.added) // _SLACK
)


@cache
def _seen_of_new(dialect: str) -> _Upsert:
    kind = sa.case(KINDS, value=interactions.c.type, else_=_SEEN)
    new = (
        sa.select(interactions.c.user, interactions.c.item, kind, sa.func.max(interactions.c.time_us))
        .where(_IS_NEW, interactions.c.item.is_not(None))
        .group_by(interactions.c.user, interactions.c.item, kind)
    )
    return _newer(_insert_into(seen, dialect).from_select(["user", "item", "kind", "last_us"], new))


class Row(NamedTuple):
    """A checked interaction."""

    user: str
    columns: dict[str, Any]


def record(
    connection: sa.Connection, rows: Sequence[Row], limits: InteractionLimits, now_us: int, mark: Mark
) -> list[Recorded]:
    """Write interactions, except duplicates and those of erased users; the outcome of each, in order."""
    erased_us = erased_among(connection, {row.user for row in rows}, now_us, mark)
    ids = [row.columns["event_id"] for row in rows]
    listed = msgspec.json.encode([(row.user, event_id) for row, event_id in zip(rows, ids, strict=True)]).decode()
    known = {
        (user, event_id) for user, event_id in fetched(connection, _KNOWN[connection.dialect.name], {"listed": listed})
    }
    outcomes: list[Recorded] = []
    new: list[Row] = []
    for row, event_id in zip(rows, ids, strict=True):
        if row.columns["time_us"] <= erased_us.get(row.user, -1):
            detail = "the user was erased after this timestamp"
            outcomes.append(Recorded("refused", event_id, Refused.ERASED, detail))
        elif (row.user, event_id) in known:
            outcomes.append(Recorded("duplicate", event_id))
        else:
            known.add((row.user, event_id))
            new.append(row)
            outcomes.append(Recorded("recorded", event_id))
    if new:
        _insert(connection, new, limits)
        next_revision(connection, state)
    return outcomes


class BulkRow(NamedTuple):
    """A checked interaction as the columns of its table, for `record_bulk`; `user` is the pseudonym."""

    user: str
    event_id: str
    time_us: int
    type: str
    item: str | None
    text: str | None
    value: float | None
    duration_s: float | None
    price: float | None
    quantity: float | None
    recommendation_id: str | None
    session_id: str | None
    context: str | None


def bulk_row(row: Row) -> BulkRow:
    """The row of a checked interaction."""
    context = row.columns["context"]
    packed = None if context is None else msgspec.json.encode(context).decode()
    return BulkRow(row.user, **{**row.columns, "context": packed})


class BulkOutcome(NamedTuple):
    """What became of rows that were recorded in bulk.

    Attributes:
        recorded: Number of rows that are new; the others are duplicates or refused.
        erased: Positions of the rows that were refused, since their users were erased after them.
    """

    recorded: int
    erased: list[int]


def record_bulk(
    connection: sa.Connection, rows: Sequence[BulkRow], limits: InteractionLimits, now_us: int, mark: Mark
) -> BulkOutcome:
    """Write interactions, except duplicates and those of erased users, with few statements for many rows.

    They are numbered by user, and those of a user in their order. So the indexes, which begin with the user, are
    written from one end to the other.
    """
    asked = dict.fromkeys(row.user for row in rows)
    erased_us: dict[str, int] = {}
    refused: list[int] = []
    for users_ in _chunks(asked):
        erased_us |= erased_among(connection, users_, now_us, mark)
    if erased_us:
        refused = [place for place, row in enumerate(rows) if row.time_us <= erased_us.get(row.user, -1)]
        gone = set(refused)
        rows = [row for place, row in enumerate(rows) if place not in gone]
        asked = dict.fromkeys(row.user for row in rows)
    if not rows:
        return BulkOutcome(0, refused)
    before = {"before": connection.execute(_NEWEST).scalar_one() or 0}
    number_of: dict[str, int] = {}
    for users_ in _chunks(sorted(asked)):
        number_of |= numbers_of(connection, users_, limits)
    numbered = sorted(((number_of[row[0]], *row[1:]) for row in rows), key=itemgetter(0))
    connection.exec_driver_sql(_bulk_insert(connection), numbered)
    added = int(connection.execute(_ADDED, before).scalar_one())
    if not added:  # all are there already, and so are their users
        return BulkOutcome(0, refused)
    connection.execute(_COUNT, before)
    connection.execute(_seen_of_new(connection.dialect.name), before)
    trim(connection, connection.execute(_FULL, {**before, "slack": limits.slack}).scalars().all(), limits)
    next_revision(connection, state)
    return BulkOutcome(added, refused)


@cache
def _bulk_statement(dialect: str) -> str:
    mark = "?" if dialect == "sqlite" else "%s"
    names = ", ".join(f'"{name}"' for name in BulkRow._fields)
    return (
        f"INSERT INTO interactions ({names}) VALUES ({', '.join(mark for _ in BulkRow._fields)}) ON CONFLICT DO NOTHING"
    )


def _bulk_insert(connection: sa.Connection) -> str:
    return _bulk_statement(connection.dialect.name)


def _chunks(names: Iterable[Key]) -> Iterator[list[Key]]:
    rest = iter(names)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk


def trim(connection: sa.Connection, numbers: Iterable[int], limits: InteractionLimits) -> int:
    """Cut the rows of users, given by number, to the limits; how many interactions and entries went."""
    gone = 0
    for number in numbers:
        old = sa.select(interactions.c.number).where(interactions.c.user == number)
        old = old.order_by(interactions.c.time_us.desc(), interactions.c.number.desc()).offset(limits.per_user)
        gone += connection.execute(sa.delete(interactions).where(interactions.c.number.in_(old))).rowcount
        faded = sa.select(seen.c.item, seen.c.kind).where(seen.c.user == number)
        faded = faded.order_by(seen.c.last_us.desc(), seen.c.item, seen.c.kind).offset(limits.seen_per_user)
        which = sa.tuple_(seen.c.item, seen.c.kind).in_(faded)
        gone += connection.execute(sa.delete(seen).where(seen.c.user == number, which)).rowcount
    return gone


def expire(connection: sa.Connection, first: int, last: int, limits: InteractionLimits, now_us: int) -> int:
    """Remove what is past the limits of the users with numbers from first to last; how many rows went."""
    gone = 0
    for table, time_us, age_s, most in (
        (interactions, interactions.c.time_us, limits.max_age_s, limits.per_user),
        (seen, seen.c.last_us, limits.seen_max_age_s, limits.seen_per_user),
    ):
        chosen = table.c.user.between(first, last)
        if age_s is not None:
            is_old = time_us < now_us - round(age_s * MICROSECONDS)
            gone += connection.execute(sa.delete(table).where(chosen, is_old)).rowcount
        many = sa.select(table.c.user).where(chosen).group_by(table.c.user).having(sa.func.count() > most)
        gone += trim(connection, connection.execute(many).scalars().all(), limits)
    of_users = users.c.number.between(first, last)
    if gone:
        connection.execute(sa.update(users).where(of_users).values({users.c.changes: users.c.changes + 1}))
        next_revision(connection, state)
    drop_empty(connection, of_users)
    return gone


def drop_empty(connection: sa.Connection, which: sa.ColumnElement[bool]) -> None:
    """Remove the chosen users of whom nothing is held any more."""
    tables = (interactions, seen, answers)
    is_held = sa.or_(*(sa.exists().where(table.c.user == users.c.number) for table in tables))
    connection.execute(sa.delete(users).where(which, sa.not_(is_held)))


def numbers_of(connection: sa.Connection, pseudonyms: Collection[str], limits: InteractionLimits) -> dict[str, int]:
    """The numbers of users; new users get one."""
    found = change_numbers(connection, pseudonyms)
    first = _first_change(limits.slack)
    new = [(of, first) for of in pseudonyms if of not in found]
    if new:
        mark = "?" if connection.dialect.name == "sqlite" else "%s"
        connection.exec_driver_sql(f"INSERT INTO {users.name} (pseudonym, changes) VALUES ({mark}, {mark})", new)
        found |= change_numbers(connection, [of for of, _ in new])
    return {pseudonym: number for pseudonym, (number, _) in found.items()}


def _insert(connection: sa.Connection, rows: Sequence[Row], limits: InteractionLimits) -> None:
    counts = Counter(row.user for row in rows)
    slack = limits.slack
    first = _first_change(slack)
    added = [{"pseudonym": user, "changes": first + count, "added": count} for user, count in counts.items()]
    executed(connection, _upsert_users(connection.dialect.name), added)
    found = change_numbers(connection, counts)
    number_of = {pseudonym: number for pseudonym, (number, _) in found.items()}
    connection.exec_driver_sql(_bulk_insert(connection), [(number_of[row.user], *bulk_row(row)[1:]) for row in rows])
    _insert_seen(connection, rows, number_of)
    # Cut after every `slack` changes.
    full = [number for user, (number, changes) in found.items() if changes // slack > (changes - counts[user]) // slack]
    trim(connection, full, limits)


def _first_change(slack: int) -> int:
    """A random multiple of the slack, which leaves room to count on in 32 bits."""
    return secrets.randbelow(max(1, 2**30 // slack)) * slack


def _insert_seen(connection: sa.Connection, rows: Sequence[Row], number_of: dict[str, int]) -> None:
    last: dict[tuple[int, str, str], int] = {}
    for row in rows:
        columns = row.columns
        if columns["item"] is not None:
            key = (number_of[row.user], columns["item"], KINDS.get(columns["type"], _SEEN))
            last[key] = max(columns["time_us"], last.get(key, 0))
    values = [{"user": user, "item": item, "kind": kind, "last_us": us} for (user, item, kind), us in last.items()]
    if values:
        executed(connection, _upsert_seen(connection.dialect.name), values)
