"""Erasure of a user: the rows go, a tombstone refuses what would bring them back, a receipt proves it."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection, Sequence
from typing import Final

import msgspec
import sqlalchemy as sa

from recserve_client.contract import ErasureReceipt, ModelTrace
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.interactions.pseudonyms import Pseudonyms
from recserve_server_ext.interactions.tables import answers, erased, erasures, interactions, seen, state, users
from recserve_server_ext.storage.database import fetched, next_revision

#: Pseudonym -> mark of its tombstone.
Mark = Callable[[str], str]
_PURPOSE: Final = b"recserve erasure receipt"
_IN_FORCE: Final = sa.select(erased.c.mark, erased.c.erased_us).where(erased.c.until_us > sa.bindparam("now_us"))
_ANY: Final = _IN_FORCE.limit(1)
_OF_USERS: Final = _IN_FORCE.where(erased.c.mark.in_(sa.bindparam("marks", expanding=True)))
_SINCE: Final = _IN_FORCE.where(erased.c.erased_us >= sa.bindparam("since_us"))


class Erased(msgspec.Struct, frozen=True):
    """The outcome of an erasure; `refused_until` is in seconds since 1970."""

    interactions: int
    refused_until: float
    answers: int


def erase(connection: sa.Connection, pseudonym: str, now_us: int, until_us: int, mark: Mark) -> Erased:
    """Remove every row of a user and leave a tombstone."""
    number = sa.select(users.c.number).where(users.c.pseudonym == pseudonym).scalar_subquery()
    newest = sa.select(sa.func.max(interactions.c.time_us)).where(interactions.c.user == number)
    # Timestamps may be somewhat ahead of the clock: a replay of the newest must be refused too.
    erased_us = max(now_us, connection.execute(newest).scalar_one() or 0)
    least = sa.select(sa.func.min(interactions.c.number)).where(interactions.c.user == number)
    first = connection.execute(least).scalar_one()
    of_interactions, of_answers, _ = (
        connection.execute(sa.delete(table).where(table.c.user == number)).rowcount
        for table in (interactions, answers, seen)
    )
    connection.execute(sa.delete(users).where(users.c.pseudonym == pseudonym))
    leave_tombstone(connection, mark(pseudonym), erased_us, until_us)
    revision = next_revision(connection, state)
    if first is not None:
        connection.execute(sa.insert(erasures), {"revision": revision, "first": first})
    return Erased(of_interactions, until_us / MICROSECONDS, of_answers)


def leave_tombstone(connection: sa.Connection, mark: str, erased_us: int, until_us: int) -> None:
    """Refuse interactions up to a time, in place of an earlier tombstone; times are in microseconds."""
    connection.execute(sa.delete(erased).where(erased.c.mark == mark))
    connection.execute(sa.insert(erased), {"mark": mark, "erased_us": erased_us, "until_us": until_us})


def erased_among(connection: sa.Connection, pseudonyms: Collection[str], now_us: int, mark: Mark) -> dict[str, int]:
    """When each of these users was erased, in microseconds, as far as a tombstone is in force."""
    # Mostly nobody was erased lately, and making a mark takes as long as looking for one.
    if not fetched(connection, _ANY, {"now_us": now_us}):
        return {}
    user_of = {mark(pseudonym): pseudonym for pseudonym in pseudonyms}
    found = connection.execute(_OF_USERS, {"marks": list(user_of), "now_us": now_us})
    return {user_of[found_mark]: erased_us for found_mark, erased_us in found}


def erased_since(connection: sa.Connection, since_us: int, now_us: int) -> dict[str, int]:
    """When users were erased, in microseconds, by mark: the tombstones in force since a moment."""
    found = connection.execute(_SINCE, {"since_us": since_us, "now_us": now_us})
    return {row.mark: row.erased_us for row in found}


def erasures_seen(connection: sa.Connection, number: int, revision: int) -> int:
    """Number of erasures of users whom a model may have seen; see `InteractionStore.erasures_seen`."""
    seen_by_model = sa.select(sa.func.count()).select_from(erasures)
    seen_by_model = seen_by_model.where(erasures.c.revision > revision, erasures.c.first <= number)
    return int(connection.execute(seen_by_model).scalar_one())


def receipt_of(
    pseudonyms: Pseudonyms, pseudonym: str, erased: Erased, erased_at: float, models: Sequence[ModelTrace] = ()
) -> ErasureReceipt:
    """The receipt of an erasure; it does not name the user."""
    receipt = ErasureReceipt(erased_at, erased.interactions, erased.refused_until, "", list(models))
    return msgspec.structs.replace(receipt, proof=_proof(pseudonyms, pseudonym, receipt))


def is_receipt_of(pseudonyms: Pseudonyms, pseudonym: str, receipt: ErasureReceipt) -> bool:
    """Whether one of these keys signed this receipt for this user while it was the newest key."""
    given = receipt.proof.encode(errors="replace")
    return any(
        hmac.compare_digest(_proof(ring, name, receipt).encode(), given) for ring, name in pseudonyms.stages(pseudonym)
    )


def _proof(pseudonyms: Pseudonyms, pseudonym: str, receipt: ErasureReceipt) -> str:
    """HMAC-SHA256 over the purpose, the pseudonym, the numbers (times in whole microseconds) and the models."""
    erased_us, until_us = (round(time * MICROSECONDS) for time in (receipt.erased_at, receipt.refused_until))
    models = msgspec.json.encode(receipt.models)
    numbers = b"%d\n%d\n%d" % (erased_us, receipt.interactions, until_us)
    return pseudonyms.sign(b"%s\n%s\n%s\n%s" % (_PURPOSE, pseudonym.encode(), numbers, models))
