"""Rotation of the key of the pseudonyms: the whole store comes under a new key in one transaction, or not at all.

A rotation has three steps, and whatever kills it, running it again does the rest:

1. The key file gets a new key. The store does not name it yet, so every process stays with the ones before.
2. One transaction brings the store to it and names it. From then on no process uses the old ring, see `UserKeys`.
3. What the old pseudonyms left in the files is cleared away. Until that is done the store says that traces are left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from recserve_server_ext.common.errors import ConfigError, InteractionError
from recserve_server_ext.common.files import exclusive
from recserve_server_ext.interactions.interaction import content_id
from recserve_server_ext.interactions.key_file import KEY_VARIABLE, add_key, given_keys, read_pseudonyms
from recserve_server_ext.interactions.keys import UserKeys
from recserve_server_ext.interactions.pseudonyms import Pseudonyms
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.interactions.tables import answers, erased, events, state, users
from recserve_server_ext.interactions.writes import forget_deleted, next_revision

_PAGE: Final = 5000
#: What `content_id` takes.
_CONTENT: Final = tuple(column for column in events.c if column.name not in ("number", "user", "event_id"))
Progress = Callable[[int], None]


class Rotation(msgspec.Struct, frozen=True):
    """What a rotation did.

    Attributes:
        users: Users with rows whose pseudonym changed.
        answers: Logged answers whose pseudonym changed.
        event_ids: Event ids that were made from the content, with the pseudonym in it.
        tombstones: Tombstones whose mark changed.
        keys: That are needed now, all of them.
        resumed: Whether only the traces of an earlier rotation were left to clear.
    """

    users: int
    answers: int
    event_ids: int
    tombstones: int
    keys: int
    resumed: bool = False


def rotate(store: InteractionStore, key_file: Path, on_progress: Progress = lambda rows: None) -> Rotation:
    """Bring a store under a new key: one that the file holds already beyond those in force, or a new one.

    Writers wait while the transaction runs, and are refused after 10 s as always; readers go on.

    Args:
        store: The interaction store.
        key_file: Of the pseudonyms; where the environment holds the keys, the new one must be there already.
        on_progress: Called with numbers of rows that were looked at; together see `rows_of`.

    Raises:
        ConfigError: The keys cannot be read or written, or the environment holds no new one.
        InteractionError: The store cannot be used, the keys are not those of the store, or (SQLite) a reader kept the
            old log in use: the rotation is done then, and running it again clears the traces.
    """
    keys = UserKeys(lambda: read_pseudonyms(key_file, make=False))
    key_file.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(key_file.with_name(f".{key_file.name}.lock")):
        keys.settle(store.database)
        if _has_traces(store):
            _clear(store)
            return Rotation(0, 0, 0, 0, keys.pseudonyms.rotations + 1, resumed=True)
        ring = _next_ring(keys.pseudonyms, key_file)
        with store.database.writing() as connection:
            forget_deleted(connection)
            keys.check(connection)
            done = Rotation(
                # Interactions first: they need the pseudonyms as they were.
                event_ids=sum(_renew_event_ids(connection, ring, on_progress)),
                users=sum(_renew(connection, users, ring, on_progress)),
                answers=sum(_renew(connection, answers, ring, on_progress)),
                tombstones=_renew_marks(connection, ring),
                keys=ring.rotations + 1,
            )
            named = {"ring": ring.fingerprint, "rotations": ring.rotations, "traces": True}
            connection.execute(sa.update(state).values(named))
            next_revision(connection)
        _clear(store)
    return done


def rows_of(store: InteractionStore) -> int:
    """Rows that a rotation looks at."""
    with store.database.reading() as connection:
        tables = (events, users, answers)
        return sum(connection.execute(sa.select(sa.func.count()).select_from(of)).scalar_one() for of in tables)


def _next_ring(current: Pseudonyms, key_file: Path) -> Pseudonyms:
    """The ring in force with one key more, which is durable by then."""
    whole = read_pseudonyms(key_file, make=False)
    if whole.rotations == current.rotations:
        if given_keys() is not None:
            raise ConfigError(
                f"the environment variable {KEY_VARIABLE} holds no key beyond those in force; add a new one at its "
                "end, after a blank (such as `openssl rand -hex 32` prints), for every process of this store"
            )
        whole = add_key(key_file)
    return whole.first(current.rotations + 2)


def _has_traces(store: InteractionStore) -> bool:
    return bool(store.database.one(sa.select(state.c.traces)))


def _clear(store: InteractionStore) -> None:
    """Leave nothing of the old pseudonyms in the files, and note that."""
    if not store.purge():
        raise InteractionError(
            f"the key is rotated, but a reader keeps the old log of {store} in use; run this again to clear it"
        )
    with store.database.writing() as connection:
        connection.execute(sa.update(state).values(traces=False))


def _pages(connection: sa.Connection, query: sa.Select[Any], number: sa.Column[Any]) -> Iterator[Sequence[Any]]:
    """Rows by ascending number, some at a time: what is read may be changed before the next ones are."""
    after = 0
    while rows := connection.execute(query.where(number > after).order_by(number).limit(_PAGE)).mappings().all():
        yield rows
        after = rows[-1]["number"]


def _renew_event_ids(connection: sa.Connection, ring: Pseudonyms, on_progress: Progress) -> Iterator[int]:
    """Make event ids anew that were made from the content; how many, page by page."""
    query = sa.select(events.c.number, events.c.event_id, users.c.pseudonym, *_CONTENT)
    change = sa.update(events).where(events.c.number == sa.bindparam("n")).values(event_id=sa.bindparam("made"))
    for rows in _pages(connection, query.join_from(events, users, events.c.user == users.c.number), events.c.number):
        changes = []
        for row in rows:
            columns = {column.name: row[column.name] for column in _CONTENT}
            if content_id(row["pseudonym"], columns) == row["event_id"]:
                changes.append({"n": row["number"], "made": content_id(ring.renewed(row["pseudonym"]), columns)})
        if changes:
            connection.execute(change, changes)
        on_progress(len(rows))
        yield len(changes)


def _renew(connection: sa.Connection, table: sa.Table, ring: Pseudonyms, on_progress: Progress) -> Iterator[int]:
    """Replace the pseudonyms of a table; how many, page by page."""
    number, pseudonym = table.c.number, table.c.pseudonym
    query = sa.select(number, pseudonym)
    change = sa.update(table).where(number == sa.bindparam("n")).values(pseudonym=sa.bindparam("renewed"))
    for rows in _pages(connection, query, number):
        named = [row for row in rows if row["pseudonym"] is not None]
        if named:
            connection.execute(change, [{"n": of["number"], "renewed": ring.renewed(of["pseudonym"])} for of in named])
        on_progress(len(rows))
        yield len(named)


def _renew_marks(connection: sa.Connection, ring: Pseudonyms) -> int:
    """Replace the marks of tombstones; how many. They are all read first: one that is changed may come again."""
    marks = list(connection.execute(sa.select(erased.c.mark)).scalars())
    change = sa.update(erased).where(erased.c.mark == sa.bindparam("old")).values(mark=sa.bindparam("renewed"))
    for start in range(0, len(marks), _PAGE):
        page = marks[start : start + _PAGE]
        connection.execute(change, [{"old": mark, "renewed": ring.renewed(mark)} for mark in page])
    return len(marks)
