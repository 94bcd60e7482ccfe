"""The statements of the transactions that write to the interaction store."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.config.interactions import InteractionLimits
from recserve_server_ext.interactions.interaction import Recorded, Refused
from recserve_server_ext.interactions.tables import answers, erased, interactions, seen, state, users

#: Kind of entry in what a user saw, by type; any other type is `seen`.
KINDS: Final = {"purchase": "bought", "dislike": "rejected"}
_SEEN: Final = "seen"
#: Pseudonym -> mark of its tombstone.
Mark = Callable[[str], str]
Upsert = sqlite.Insert | postgresql.Insert
_INSERTS: Final[dict[str, Callable[[sa.Table], Upsert]]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def _upsert_users(dialect: str) -> Upsert:
    insert = _INSERTS[dialect](users)
    added = {users.c.changes: users.c.changes + sa.bindparam("added")}
    return insert.on_conflict_do_update(index_elements=[users.c.pseudonym], set_=added)


def _upsert_seen(dialect: str) -> Upsert:
    insert = _INSERTS[dialect](seen)
    return insert.on_conflict_do_update(
        index_elements=[seen.c.user, seen.c.item, seen.c.kind],
        set_={"last_us": insert.excluded.last_us},
        where=insert.excluded.last_us > seen.c.last_us,
    )


# Made once: making the statements of one interaction takes longer than running them.
_NEXT_REVISION: Final = sa.update(state).values(revision=state.c.revision + 1)
_ERASED: Final = sa.select(erased.c.mark, erased.c.erased_us).where(
    erased.c.mark.in_(sa.bindparam("marks", expanding=True)), erased.c.until_us > sa.bindparam("now_us")
)
_ERASED_SINCE: Final = sa.select(erased.c.mark, erased.c.erased_us).where(
    erased.c.erased_us >= sa.bindparam("since_us"), erased.c.until_us > sa.bindparam("now_us")
)
_KNOWN: Final = (
    sa.select(users.c.pseudonym, interactions.c.event_id)
    .join_from(interactions, users, interactions.c.user == users.c.number)
    .where(interactions.c.event_id.in_(sa.bindparam("ids", expanding=True)))
)
_NUMBERS: Final = sa.select(users.c.pseudonym, users.c.number, users.c.changes).where(
    users.c.pseudonym.in_(sa.bindparam("pseudonyms", expanding=True))
)
_INSERT: Final = sa.insert(interactions)
_ADD_USERS: Final = sa.insert(users).returning(users.c.pseudonym, users.c.number)
_UPSERT_USERS: Final = {dialect: _upsert_users(dialect) for dialect in _INSERTS}
_UPSERT_SEEN: Final = {dialect: _upsert_seen(dialect) for dialect in _INSERTS}


class Row(NamedTuple):
    """A checked interaction.

    Attributes:
        user: Pseudonym.
        columns: From `recserve_server_ext.interactions.interaction.checked`.
    """

    user: str
    columns: dict[str, Any]


def record(
    connection: sa.Connection,
    rows: Sequence[Row],
    limits: InteractionLimits,
    now_us: int,
    mark: Mark,
) -> list[Recorded]:
    """Write what is neither there already nor of an erased user; an answer for each, in order."""
    forget_deleted(connection)
    erased_us = erasures(connection, {row.user for row in rows}, now_us, mark)
    there = _known(connection, [row.columns["event_id"] for row in rows])
    answers: list[Recorded] = []
    new: list[Row] = []
    for row in rows:
        event_id = row.columns["event_id"]
        if row.columns["time_us"] <= erased_us.get(row.user, -1):
            detail = "the user was erased after this timestamp"
            answers.append(Recorded("refused", event_id, Refused.ERASED, detail))
        elif (row.user, event_id) in there:
            answers.append(Recorded("duplicate", event_id))
        else:
            there.add((row.user, event_id))
            new.append(row)
            answers.append(Recorded("recorded", event_id))
    if new:
        _insert(connection, new, limits)
        next_revision(connection)
    return answers


def forget_deleted(connection: sa.Connection) -> None:
    """Let SQLite overwrite with zeros what this connection deletes; the first statement of a transaction."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA secure_delete=ON")


def next_revision(connection: sa.Connection) -> None:
    """Count a change."""
    connection.execute(_NEXT_REVISION)


def erasures(connection: sa.Connection, pseudonyms: set[str], now_us: int, mark: Mark) -> dict[str, int]:
    """When each user was erased, as far as that still counts."""
    user_of = {mark(pseudonym): pseudonym for pseudonym in pseudonyms}
    found = connection.execute(_ERASED, {"marks": list(user_of), "now_us": now_us})
    return {user_of[found_mark]: erased_us for found_mark, erased_us in found}


def erased_since(connection: sa.Connection, since_us: int, now_us: int) -> dict[str, int]:
    """When the users of the tombstones not older than `since_us` were erased, by mark, as far as that still counts."""
    found = connection.execute(_ERASED_SINCE, {"since_us": since_us, "now_us": now_us})
    return {row.mark: row.erased_us for row in found}


class Gone(NamedTuple):
    """What an erasure removed.

    Attributes:
        interactions: How many.
        answers: Logged answers, how many.
    """

    interactions: int
    answers: int


def erase(connection: sa.Connection, pseudonym: str, now_us: int, until_us: int, mark: Mark) -> Gone:
    """Remove every row of a user and leave a tombstone."""
    forget_deleted(connection)
    number = sa.select(users.c.number).where(users.c.pseudonym == pseudonym).scalar_subquery()
    # Timestamps may be somewhat ahead of the clock: a replay of the newest must be refused too.
    newest = connection.execute(
        sa.select(sa.func.max(interactions.c.time_us)).where(interactions.c.user == number)
    ).scalar_one()
    erased_us = max(now_us, newest or 0)
    gone = connection.execute(sa.delete(interactions).where(interactions.c.user == number)).rowcount
    connection.execute(sa.delete(seen).where(seen.c.user == number))
    logged = connection.execute(sa.delete(answers).where(answers.c.user == number)).rowcount
    connection.execute(sa.delete(users).where(users.c.pseudonym == pseudonym))
    tombstone = {"mark": mark(pseudonym), "erased_us": erased_us, "until_us": until_us}
    connection.execute(sa.delete(erased).where(erased.c.mark == tombstone["mark"]))
    connection.execute(sa.insert(erased), tombstone)
    next_revision(connection)
    return Gone(gone, logged)


def trim(connection: sa.Connection, numbers: Iterable[int], limits: InteractionLimits) -> int:
    """Cut the rows of these users to the limits; the number of interactions and entries that went."""
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
    """Remove what is past the limits of the users with these numbers; the number of rows that went."""
    forget_deleted(connection)
    gone = 0
    for table, time_us, age_s in (
        (interactions, interactions.c.time_us, limits.max_age_s),
        (seen, seen.c.last_us, limits.seen_max_age_s),
    ):
        if age_s is not None:
            old = sa.delete(table).where(
                table.c.user.between(first, last), time_us < now_us - round(age_s * MICROSECONDS)
            )
            gone += connection.execute(old).rowcount
    for table, limit in ((interactions, limits.per_user), (seen, limits.seen_per_user)):
        many = sa.select(table.c.user).where(table.c.user.between(first, last)).group_by(table.c.user)
        gone += trim(connection, connection.execute(many.having(sa.func.count() > limit)).scalars().all(), limits)
    if gone:
        changed = sa.update(users).where(users.c.number.between(first, last))
        connection.execute(changed.values({users.c.changes: users.c.changes + 1}))
    drop_empty(connection, users.c.number.between(first, last))
    if gone:
        next_revision(connection)
    return gone


def drop_empty(connection: sa.Connection, which: sa.ColumnElement[bool]) -> None:
    """Remove those of these users of whom nothing is held any more."""
    is_held = sa.or_(*(sa.exists().where(table.c.user == users.c.number) for table in (interactions, seen, answers)))
    connection.execute(sa.delete(users).where(which, sa.not_(is_held)))


def numbers_of(connection: sa.Connection, pseudonyms: Collection[str], limits: InteractionLimits) -> dict[str, int]:
    """The numbers of users; those who have none get one."""
    found = {pseudonym: number for pseudonym, number, _ in connection.execute(_NUMBERS, {"pseudonyms": pseudonyms})}
    new = [{"pseudonym": of, "changes": _first_change(limits.slack)} for of in pseudonyms if of not in found]
    if new:
        found |= dict(connection.execute(_ADD_USERS, new).all())
    return found


def _known(connection: sa.Connection, ids: Sequence[str]) -> set[tuple[str, str]]:
    """Pseudonym and event id of what has one of these ids already."""
    return {(user, event_id) for user, event_id in connection.execute(_KNOWN, {"ids": ids})}


def _insert(connection: sa.Connection, rows: Sequence[Row], limits: InteractionLimits) -> None:
    counts = Counter(row.user for row in rows)
    slack = limits.slack
    added = [
        {"pseudonym": user, "changes": _first_change(slack) + count, "added": count} for user, count in counts.items()
    ]
    connection.execute(_UPSERT_USERS[connection.dialect.name], added)
    found = list(connection.execute(_NUMBERS, {"pseudonyms": list(counts)}))
    number_of = {pseudonym: number for pseudonym, number, _ in found}
    connection.execute(_INSERT, [{"user": number_of[row.user], **row.columns} for row in rows])
    _insert_seen(connection, rows, number_of)
    # A cut after every `slack` changes.
    full = [number for user, number, changes in found if changes // slack > (changes - counts[user]) // slack]
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
        connection.execute(_UPSERT_SEEN[connection.dialect.name], values)
