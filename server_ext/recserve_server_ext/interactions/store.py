"""The interaction store: what users did, durable in SQLite or PostgreSQL, by pseudonym."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from recserve_server_ext.common.errors import InteractionError
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.common.workspace import store_place
from recserve_server_ext.config.interactions import InteractionLimits
from recserve_server_ext.interactions import impression_rows
from recserve_server_ext.interactions import reads as interaction_reads
from recserve_server_ext.interactions import writes as interaction_writes
from recserve_server_ext.interactions.columns import InteractionColumns
from recserve_server_ext.interactions.interaction import Interaction, Recorded, RefusedError, checked
from recserve_server_ext.interactions.keys import UserKeys, check_without
from recserve_server_ext.interactions.pseudonyms import is_pseudonym, tombstone_mark
from recserve_server_ext.interactions.tables import SCHEMA, answers, erased, interactions, seen, state, users
from recserve_server_ext.interactions.writes import Mark, Row
from recserve_server_ext.storage.database import WAIT_S, Database, Store
from recserve_server_ext.storage.group_commit import GroupCommit, QueueFullError

#: Users of one `window` or `seen`, and interactions of one `between`.
MAX_USERS: Final = 5000
MAX_BETWEEN: Final = 5_000_000
_USERS_PER_STEP: Final = 500
_REVISION: Final = sa.select(state.c.revision)


class Erased(msgspec.Struct, frozen=True):
    """What an erasure did.

    Attributes:
        interactions: How many went.
        refused_until: Seconds since 1970; until then older interactions of the user are refused.
        answers: Logged answers that went.
    """

    interactions: int
    refused_until: float
    answers: int


class StoreStats(msgspec.Struct, frozen=True):
    """An interaction store in numbers.

    Attributes:
        revision: Of the store.
        users: Users of whom anything is held.
        interactions: Interactions.
        types: Interactions by type, most frequent first.
        items: Distinct items among them.
        seen: Entries of what users saw.
        erased: Tombstones.
        answers: Logged answers.
        oldest: Timestamp in seconds since 1970; none where there are no interactions.
        newest: The same.
    """

    revision: int
    users: int
    interactions: int
    types: dict[str, int]
    items: int
    seen: int
    erased: int
    answers: int
    oldest: float | None
    newest: float | None


class InteractionStore(Store):
    """What users did; a context manager. Its methods may be called by several threads, apart from `mark`.

    A method that writes returns once its change has been fsynced. Users are pseudonyms throughout; see
    `recserve_server_ext.interactions.pseudonyms`.
    """

    def __init__(
        self,
        where: Path | str,
        limits: InteractionLimits | None = None,
        *,
        create: bool = False,
        clock: Callable[[], float] = time.time,
        keys: UserKeys | None = None,
    ) -> None:
        """Open a store.

        Args:
            where: A SQLite file (WAL, synchronous=FULL), or the URL of a PostgreSQL database.
            limits: What it accepts and keeps.
            create: Whether to make it when it is not there.
            clock: Seconds since 1970.
            keys: That the pseudonyms are made with, settled with this store by the caller; `None` where pseudonyms are
                given, which a store whose keys were rotated refuses.

        Raises:
            InteractionError: There is none and `create` is false, it cannot be opened, or is no interaction store.
        """
        self.limits = limits or InteractionLimits()
        super().__init__(Database(where, SCHEMA, create=create))
        self.keys = keys
        self._clock = clock
        batch = self.limits.batch
        queue = max(batch, self.limits.queue)
        self._commit = GroupCommit(self._write, group=batch, queue=queue, wait_s=WAIT_S)

    @property
    def revision(self) -> int:
        """Number of changes committed so far; one transaction may hold the interactions of several calls."""
        return int(self.database.one(_REVISION))

    @property
    def identity(self) -> str:
        """Tells this store from another, also from one that was made anew in its place."""
        return str(self.database.one(sa.select(state.c.identity)))

    @property
    def waiting(self) -> int:
        """Interactions that `record` was given and that are not committed yet."""
        return self._commit.waiting

    def mark(self) -> int:
        """The revision, for next to nothing where nothing was committed (SQLite); see `Database.latest`.

        Logged answers do not change it: what is known of users is as right as before.
        """
        return self.database.latest(_REVISION)

    def check(self, connection: sa.Connection) -> None:
        """See that the pseudonyms of this store are made by the keys in force, as of this transaction.

        Raises:
            UserKeysError: They are not; nothing may be read or written of a user then.
        """
        if self.keys is None:
            check_without(connection)
        else:
            self.keys.check(connection)

    def record(self, batch: Sequence[Interaction]) -> list[Recorded]:
        """Store interactions; an answer for each, in order. Returns once they are committed and fsynced.

        A bad one is refused alone. One whose event id its user has already is a duplicate and changes nothing; without
        an id its content is the id, see `recserve_server_ext.interactions.interaction.content_id`. Calls of several
        threads share transactions; the batch of one call is never split.

        Raises:
            InteractionError: The batch is too large, too many wait already, or the store cannot be written; then
                nothing of the batch is stored, and sending it again is safe. When the connection to a database server
                breaks during the commit it may be stored all the same: sending it again tells.
        """
        limits = self.limits
        if len(batch) > limits.batch:
            raise InteractionError(f"a batch of {len(batch):,} interactions; send at most {limits.batch:,} at a time")
        latest_s = self._clock() + limits.future_s
        answers: list[Recorded | None] = []
        rows: list[Row] = []
        for interaction in batch:
            try:
                rows.append(Row(interaction.user, checked(interaction, latest_s)))
            except RefusedError as error:
                answers.append(Recorded("refused", "", error.reason, error.detail))
            else:
                answers.append(None)
        try:
            committed = iter(self._commit(rows))
        except QueueFullError:
            raise InteractionError(
                f"{limits.queue:,} interactions wait for {self} to take them; send this batch again later"
            ) from None
        return [next(committed) if answer is None else answer for answer in answers]

    def sample_users(self, most: int, seed: int) -> list[str]:
        """Pseudonyms of some users with interactions, drawn evenly with this seed, in a fixed order.

        Args:
            most: How many at most.
            seed: The same seed draws the same users of the same store.
        """
        with self.database.reading() as connection:
            return interaction_reads.sample_users(connection, most, seed)

    def window(self, pseudonyms: Sequence[str], limit: int = 500) -> InteractionColumns:
        """The newest interactions of each of many users, by timestamp and newest first, in one query.

        Args:
            pseudonyms: At most 5,000, each once; unknown ones have no interactions.
            limit: Interactions of each at most; its cost does not grow with what a user did before.

        Raises:
            InteractionError: Too many users, or one twice.
        """
        if limit < 1:
            raise InteractionError(f"the limit of a window is {limit}; it must be at least 1")
        with self.database.reading() as connection:
            self.check(connection)
            known = interaction_reads.change_numbers(connection, _several(pseudonyms))
            numbers = [known[user][0] if user in known else None for user in pseudonyms]
            return interaction_reads.window(connection, numbers, limit)

    def between(self, start: float, end: float) -> InteractionColumns:
        """All interactions with start <= timestamp < end (seconds since 1970), to fit statistics on.

        They are held in memory.

        Raises:
            InteractionError: There are more than 5,000,000.
        """
        start_us, end_us = round(start * MICROSECONDS), round(end * MICROSECONDS)
        count = sa.select(sa.func.count()).where(interactions.c.time_us >= start_us, interactions.c.time_us < end_us)
        with self.database.reading() as connection:
            found = connection.execute(count).scalar_one()
            if found > MAX_BETWEEN:
                raise InteractionError(f"{found:,} interactions in this range; choose one of at most {MAX_BETWEEN:,}")
            return interaction_reads.between(connection, start_us, end_us)

    def seen(self, pseudonyms: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
        """What users ever had to do with, also past the window: {user: {item: {kind: last timestamp in seconds}}}.

        Kinds are `bought` (purchase), `rejected` (dislike) and `seen` (any other type).

        Raises:
            InteractionError: Too many users, or one twice.
        """
        with self.database.reading() as connection:
            self.check(connection)
            return interaction_reads.seen_items(connection, _several(pseudonyms))

    def export(self, pseudonym: str) -> dict[str, Any]:
        """All that is held of a user, ready for JSON: `user`, `interactions` in the order they came, `seen`, `answers`.

        `seen` is a list of {item, kind, timestamp}, see `seen`; `answers` are those that were logged, in their order.
        """
        with self.database.reading() as connection:
            self.check(connection)
            found = list(interaction_reads.all_interactions(connection, pseudonym))
            items = interaction_reads.seen_items(connection, [pseudonym])[pseudonym]
            logged = impression_rows.answers_of(connection, pseudonym)
        entries = [
            {"item": item, "kind": kind, "timestamp": last} for item, of in items.items() for kind, last in of.items()
        ]
        return {"user": pseudonym, "interactions": found, "seen": entries, "answers": logged}

    @contextmanager
    def all(self) -> Iterator[Iterator[dict[str, Any]]]:
        """All interactions in the order they came, as of one moment, as the fields of `Interaction` that are given."""
        with self.database.reading() as connection, closing(interaction_reads.all_interactions(connection)) as rows:
            yield rows

    def stats(self) -> StoreStats:
        """The store in numbers, as of one moment; reads all of it."""
        rows = sa.func.count()
        types = (
            sa.select(interactions.c.type, rows)
            .group_by(interactions.c.type)
            .order_by(rows.desc(), interactions.c.type)
        )
        times = sa.select(sa.func.min(interactions.c.time_us), sa.func.max(interactions.c.time_us))
        with self.database.reading() as connection:
            by_type = {name: int(count) for name, count in connection.execute(types)}
            oldest, newest = connection.execute(times).one()
            return StoreStats(
                revision=connection.execute(_REVISION).scalar_one(),
                users=connection.execute(sa.select(rows).select_from(users)).scalar_one(),
                interactions=sum(by_type.values()),
                types=by_type,
                items=connection.execute(sa.select(sa.func.count(interactions.c.item.distinct()))).scalar_one(),
                seen=connection.execute(sa.select(rows).select_from(seen)).scalar_one(),
                erased=connection.execute(sa.select(rows).select_from(erased)).scalar_one(),
                answers=connection.execute(sa.select(rows).select_from(answers)).scalar_one(),
                oldest=None if oldest is None else oldest / MICROSECONDS,
                newest=None if newest is None else newest / MICROSECONDS,
            )

    def erase(self, pseudonym: str) -> Erased:
        """Remove all rows of a user in one transaction and leave a tombstone; safe to repeat.

        Until the tombstone ends, interactions of the user with an older timestamp are refused, so that a late replay
        does not bring anything back. Of SQLite, no file holds the pseudonym or the rows afterwards: deleted bytes are
        overwritten and the write-ahead log is emptied. PostgreSQL is vacuumed; its log and backups are the operator's.
        Exported files are the operator's to erase from.

        Raises:
            InteractionError: It is no pseudonym, the store cannot be written, or (SQLite) a reader kept the old log in
                use: the rows are gone then, and erasing again empties the log.
        """
        _several([pseudonym])
        now_us = round(self._clock() * MICROSECONDS)
        until_us = now_us + round(self.limits.tombstone_s * MICROSECONDS)
        with self.database.writing() as connection:
            self.check(connection)
            gone = interaction_writes.erase(connection, pseudonym, now_us, until_us, self.mark_of)
        if not self.purge():
            raise InteractionError(f"the user is erased, but a reader keeps the old log of {self} in use; erase again")
        return Erased(gone.interactions, until_us / MICROSECONDS, gone.answers)

    def expire(self, now: float | None = None) -> int:
        """Remove what is past the limits, some hundred users a transaction; the number of rows that went.

        Args:
            now: Seconds since 1970, or `None` for the time of the clock.
        """
        now_us = round((self._clock() if now is None else now) * MICROSECONDS)
        gone, after = self.trim_answers(now_us), 0
        while True:
            chosen = sa.select(users.c.number).where(users.c.number > after).order_by(users.c.number)
            with self.database.writing() as connection:
                numbers = list(connection.execute(chosen.limit(_USERS_PER_STEP)).scalars())
                if not numbers:
                    connection.execute(sa.delete(erased).where(erased.c.until_us <= now_us))
                    return gone
                gone += interaction_writes.expire(connection, after + 1, numbers[-1], self.limits, now_us)
            after = numbers[-1]

    @property
    def mark_of(self) -> Mark:
        """Pseudonym -> mark of its tombstone."""
        return tombstone_mark if self.keys is None else self.keys.pseudonyms.tombstone

    def purge(self) -> bool:
        """Leave no bytes of deleted rows in the files; whether no reader kept the old log in use (SQLite)."""
        if self.database.is_sqlite:
            return self.database.empty_log()
        self.database.vacuum(["interactions", "seen_items", "interaction_users", "answers", "erased_users"])
        return True

    def trim_answers(self, now_us: int) -> int:
        """Remove logged answers past the limits, some thousand a transaction; how many went.

        Args:
            now_us: Microseconds since 1970.
        """
        gone = 0
        while True:
            with self.database.writing() as connection:
                found = impression_rows.trim(connection, self.limits, now_us)
            if not found:
                return gone
            gone += found

    def _write(self, rows: list[Row]) -> list[Recorded]:
        with self.database.writing() as connection:
            self.check(connection)
            now_us = round(self._clock() * MICROSECONDS)
            return interaction_writes.record(connection, rows, self.limits, now_us, self.mark_of)


def opener(where: str, limits: InteractionLimits, keys: UserKeys) -> Callable[[], InteractionStore]:
    """Opens a store when it is first asked for, and again while that fails: a process can start without it.

    Args:
        where: A file or a URL.
        limits: What it accepts and keeps.
        keys: That the pseudonyms are made with.
    """
    return cache(lambda: InteractionStore(store_place(where), limits, keys=keys))


def _several(pseudonyms: Sequence[str]) -> list[str]:
    if len(pseudonyms) > MAX_USERS:
        raise InteractionError(f"{len(pseudonyms):,} users at a time; ask for at most {MAX_USERS:,}")
    if len(set(pseudonyms)) < len(pseudonyms):
        raise InteractionError("a user is asked for twice")
    if not all(map(is_pseudonym, pseudonyms)):
        raise InteractionError("a user is no pseudonym (64 or 96 hexadecimal digits)")
    return list(pseudonyms)
