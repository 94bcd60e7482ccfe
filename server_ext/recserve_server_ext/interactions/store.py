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
from recserve_server_ext.interactions import changes, reads, writes
from recserve_server_ext.interactions.columns import InteractionColumns
from recserve_server_ext.interactions.comments import with_comments
from recserve_server_ext.interactions.erasure import Erased, Mark, erase, erasures_seen
from recserve_server_ext.interactions.impressions import rows as impression_rows
from recserve_server_ext.interactions.interaction import Interaction, Recorded, RefusedError, checked
from recserve_server_ext.interactions.keys import UserKeys, check_without
from recserve_server_ext.interactions.ledger import Ledger, note_of
from recserve_server_ext.interactions.pseudonyms import is_pseudonym, tombstone_mark
from recserve_server_ext.interactions.tables import SCHEMA, answers, erased, interactions, seen, state, users
from recserve_server_ext.interactions.writes import BulkOutcome, BulkRow, Row
from recserve_server_ext.storage.database import WAIT_S, Database, Store
from recserve_server_ext.storage.group_commit import GroupCommit, QueueFullError

#: Most users of a `window`, and interactions of a `between`.
MAX_USERS: Final = 5000
MAX_BETWEEN: Final = 5_000_000
_USERS_PER_STEP: Final = 500
#: Of a connection that writes in bulk: a cache of 256 MiB for the indexes, whose keys come in no order, and a log that
#: is copied to the file after 160 MiB.
_BULK_PRAGMAS: Final = ("cache_size=-262144", "wal_autocheckpoint=40000")


class StoreStats(msgspec.Struct, frozen=True):
    """An interaction store in numbers.

    Attributes:
        users: Users of whom anything is held.
        types: Interactions by type, most frequent first.
        items: Distinct items of the interactions.
        seen: Entries of what users saw.
        oldest: Oldest timestamp in seconds since 1970; `None` without interactions.
        newest: Newest timestamp in seconds since 1970; `None` without interactions.
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
    """What users did; a context manager. Several threads may call its methods, except `mark`.

    A method that writes returns once its change has been fsynced. Users are given by pseudonym; see
    `recserve_server_ext.interactions.pseudonyms`. Logging an answer does not change the revision.
    """

    def __init__(
        self,
        where: Path | str,
        limits: InteractionLimits | None = None,
        *,
        create: bool = False,
        clock: Callable[[], float] = time.time,
        keys: UserKeys | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        """Open a store.

        Args:
            where: A SQLite file (WAL, synchronous=FULL), or the URL of a PostgreSQL database.
            keys: The keys of the pseudonyms, settled with this store by the caller. `None` where the caller has
                pseudonyms only; a store whose keys were rotated then refuses.
            ledger: Where erasures are noted; `None` for nowhere, as in a store without backups.

        Raises:
            InteractionError: The store is missing and `create` is false, it cannot be opened, or is no interaction
                store.
        """
        self.limits = limits or InteractionLimits()
        super().__init__(Database(where, SCHEMA, create=create))
        self.keys = keys
        self._ledger = ledger
        self._clock = clock
        batch = self.limits.batch
        queue = max(batch, self.limits.queue)
        self._commit = GroupCommit(self._write, group=batch, queue=queue, wait_s=WAIT_S)

    @property
    def waiting(self) -> int:
        """Interactions given to `record` that are not committed yet."""
        return self._commit.waiting

    @property
    def mark_of(self) -> Mark:
        """Pseudonym -> mark of its tombstone."""
        return tombstone_mark if self.keys is None else self.keys.pseudonyms.tombstone

    def check(self, connection: sa.Connection) -> None:
        """Raise UserKeysError unless, in this transaction, the keys in force made the pseudonyms of this store."""
        if self.keys is None:
            check_without(connection)
        else:
            self.keys.check(connection)

    def record(self, batch: Sequence[Interaction]) -> list[Recorded]:
        """Store interactions, committed and fsynced when this returns; the outcome of each, in order.

        A bad interaction is refused alone. An interaction whose event id its user already has is a duplicate and
        changes nothing; for the default id see `recserve_server_ext.interactions.interaction.content_id`. Calls of
        several threads share transactions; the batch of one call is never split.

        Raises:
            InteractionError: The batch is too large, too many interactions wait, or the store cannot be written.
                Nothing of the batch is stored, and sending it again is safe. A connection to a database server that
                breaks during the commit leaves it open whether the batch is stored; sending it again tells.
        """
        limits = self.limits
        if len(batch) > limits.batch:
            raise InteractionError(f"a batch of {len(batch):,} interactions; send at most {limits.batch:,} at a time")
        latest_s = self.latest_s
        outcomes: list[Recorded | None] = []
        rows: list[Row] = []
        for interaction in batch:
            try:
                rows.append(Row(interaction.user, checked(interaction, latest_s)))
            except RefusedError as error:
                outcomes.append(Recorded("refused", "", error.reason, error.detail))
            else:
                outcomes.append(None)
        try:
            committed = iter(self._commit(rows))
        except QueueFullError:
            raise InteractionError(
                f"{limits.queue:,} interactions wait for {self} to take them; send this batch again later"
            ) from None
        return [next(committed) if outcome is None else outcome for outcome in outcomes]

    def record_bulk(self, rows: Sequence[BulkRow]) -> BulkOutcome:
        """Store checked interactions in one transaction, committed and fsynced when this returns.

        For imports: no other call shares the transaction, and the outcome is counted, not told row by row.

        Raises:
            InteractionError: The store cannot be written; nothing of the rows is stored.
        """
        with self.database.writing() as connection:
            if self.database.is_sqlite:
                for pragma in _BULK_PRAGMAS:
                    connection.exec_driver_sql(f"PRAGMA {pragma}")
            self.check(connection)
            return writes.record_bulk(connection, rows, self.limits, self._now_us(), self.mark_of)

    @property
    def latest_s(self) -> float:
        """Newest timestamp that is accepted now, in seconds since 1970."""
        return self._clock() + self.limits.future_s

    def sample_users(self, most: int, seed: int) -> list[str]:
        """Pseudonyms of users with interactions, drawn evenly by a seed, in a fixed order."""
        with self.database.reading() as connection:
            return reads.sample_users(connection, most, seed)

    def window(self, pseudonyms: Sequence[str], limit: int = 500, *, has_comments: bool = False) -> InteractionColumns:
        """The newest interactions of many users, by timestamp and newest first, in one query.

        Args:
            pseudonyms: At most 5,000 distinct users; an unknown user has no interactions.
            limit: Most interactions of a user; older ones cost nothing.
            has_comments: Whether to read the texts about items, too.

        Raises:
            InteractionError: Too many users, or a user twice.
        """
        if limit < 1:
            raise InteractionError(f"the limit of a window is {limit}; it must be at least 1")
        with self.database.reading() as connection:
            self.check(connection)
            known = changes.change_numbers(connection, _several(pseudonyms))
            numbers = [known[user][0] if user in known else None for user in pseudonyms]
            found = reads.window(connection, numbers, limit)
            return with_comments(connection, numbers, found, limit) if has_comments else found

    def between(self, start: float, end: float) -> InteractionColumns:
        """All interactions, at most 5,000,000, with start <= timestamp < end (seconds since 1970), in memory."""
        start_us, end_us = round(start * MICROSECONDS), round(end * MICROSECONDS)
        time_us = interactions.c.time_us
        count = sa.select(sa.func.count()).where(time_us >= start_us, time_us < end_us)
        with self.database.reading() as connection:
            found = connection.execute(count).scalar_one()
            if found > MAX_BETWEEN:
                raise InteractionError(f"{found:,} interactions in this range; choose one of at most {MAX_BETWEEN:,}")
            return reads.between(connection, start_us, end_us)

    def export(self, pseudonym: str) -> dict[str, Any]:
        """All that is held of a user, ready for JSON.

        Returns:
            `user`; `interactions` in the order they came; `answers`, the logged answers in their order; and `seen`, a
            list of {item, kind, timestamp} of all that the user ever had to do with. Kinds are `bought` (purchase),
            `rejected` (dislike) and `seen` (any other type); the timestamp is the last of its kind.
        """
        with self.database.reading() as connection:
            self.check(connection)
            found = list(reads.all_interactions(connection, pseudonym))
            entries = reads.seen_entries(connection, pseudonym)
            logged = impression_rows.answers_of(connection, pseudonym)
        return {"user": pseudonym, "interactions": found, "seen": entries, "answers": logged}

    @contextmanager
    def all(self) -> Iterator[Iterator[dict[str, Any]]]:
        """All interactions in the order they came, as of one moment, as the given fields of `Interaction`."""
        with self.database.reading() as connection, closing(reads.all_interactions(connection)) as rows:
            yield rows

    @contextmanager
    def item_counts(self) -> Iterator[Iterator[tuple[str, int]]]:
        """Every item of the log with its number of interactions, as of one moment."""
        item = interactions.c.item
        query = sa.select(item, sa.func.count()).where(item.is_not(None)).group_by(item)
        with self.database.reading() as connection:
            rows = connection.execution_options(yield_per=_USERS_PER_STEP).execute(query)
            yield ((name, count) for name, count in rows)

    def stats(self) -> StoreStats:
        """The store in numbers, as of one moment; reads all of it."""
        type_, time_us, rows = interactions.c.type, interactions.c.time_us, sa.func.count()
        types = sa.select(type_, rows).group_by(type_).order_by(rows.desc(), type_)
        with self.database.reading() as connection:
            by_type = {name: int(count) for name, count in connection.execute(types)}
            oldest, newest = connection.execute(sa.select(sa.func.min(time_us), sa.func.max(time_us))).one()
            of_users, of_seen, of_erased, of_answers = (
                connection.execute(sa.select(rows).select_from(table)).scalar_one()
                for table in (users, seen, erased, answers)
            )
            return StoreStats(
                revision=connection.execute(sa.select(state.c.revision)).scalar_one(),
                users=of_users,
                interactions=sum(by_type.values()),
                types=by_type,
                items=connection.execute(sa.select(sa.func.count(interactions.c.item.distinct()))).scalar_one(),
                seen=of_seen,
                erased=of_erased,
                answers=of_answers,
                oldest=None if oldest is None else oldest / MICROSECONDS,
                newest=None if newest is None else newest / MICROSECONDS,
            )

    def erase(self, pseudonym: str) -> Erased:
        """Remove all rows of a user in one transaction and leave a tombstone; safe to repeat.

        Until the tombstone ends, older interactions of the user are refused, so that a late replay brings nothing back.
        Afterwards no SQLite file holds the pseudonym or the rows: deleted bytes are overwritten, and the write-ahead
        log is emptied. PostgreSQL is vacuumed; its log, its backups and exported files are the operator's to erase.

        Raises:
            InteractionError: The pseudonym is malformed, the store or the ledger cannot be written, or (SQLite) a
                reader kept the old log in use. In that last case the rows are gone, and erasing again empties the log.
        """
        _several([pseudonym])
        now_us = self._now_us()
        until_us = now_us + round(self.limits.tombstone_s * MICROSECONDS)
        with self.database.writing() as connection:
            self.check(connection)
            gone = erase(connection, pseudonym, now_us, until_us, self.mark_of)
            if self._ledger is not None:
                # Before the commit: an erasure that was answered must be in the ledger, whatever dies in between.
                self._ledger.add([note_of(connection, self.mark_of(pseudonym), now_us)])
        if not self.database.purge():
            raise InteractionError(f"the user is erased, but a reader keeps the old log of {self} in use; erase again")
        return gone

    def erasures_seen(self, number: int, revision: int) -> int:
        """Number of erasures of users whom a model may hold a trace of.

        Args:
            number: Number of the last interaction that it was trained on.
            revision: Revision of the store when it was read.
        """
        with self.database.reading() as connection:
            return erasures_seen(connection, number, revision)

    def expire(self, now: float | None = None) -> int:
        """Remove what is past the limits at a time in seconds since 1970, in many transactions; how many rows went."""
        now_us = self._now_us() if now is None else round(now * MICROSECONDS)
        gone, after = self.trim_answers(now_us), 0
        while True:
            chosen = sa.select(users.c.number).where(users.c.number > after).order_by(users.c.number)
            with self.database.writing() as connection:
                numbers = list(connection.execute(chosen.limit(_USERS_PER_STEP)).scalars())
                if not numbers:
                    connection.execute(sa.delete(erased).where(erased.c.until_us <= now_us))
                    return gone
                gone += writes.expire(connection, after + 1, numbers[-1], self.limits, now_us)
            after = numbers[-1]

    def trim_answers(self, now_us: int) -> int:
        """Remove logged answers past the limits, some thousand a transaction; how many went."""
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
            return writes.record(connection, rows, self.limits, self._now_us(), self.mark_of)

    def _now_us(self) -> int:
        return round(self._clock() * MICROSECONDS)


def opener(
    where: str, limits: InteractionLimits, keys: UserKeys, ledger: Ledger | None = None
) -> Callable[[], InteractionStore]:
    """A function that opens a store at its first call, and tries again while that fails."""
    return cache(lambda: InteractionStore(store_place(where), limits, keys=keys, ledger=ledger))


def _several(pseudonyms: Sequence[str]) -> list[str]:
    if len(pseudonyms) > MAX_USERS:
        raise InteractionError(f"{len(pseudonyms):,} users at a time; ask for at most {MAX_USERS:,}")
    if len(set(pseudonyms)) < len(pseudonyms):
        raise InteractionError("a user is asked for twice")
    if not all(map(is_pseudonym, pseudonyms)):
        raise InteractionError("a user is no pseudonym (64 or 96 hexadecimal digits)")
    return list(pseudonyms)
