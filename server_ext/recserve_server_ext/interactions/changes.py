"""The queries that tell what changed in the interaction store."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
import sqlalchemy as sa

from recserve_server_ext.interactions.tables import erased, interactions, state, users
from recserve_server_ext.storage.database import fetched

#: Changes whenever the state that it describes changes.
Change = tuple[int, int]
_GIVEN: Final = {
    "sqlite": sa.text("SELECT value FROM json_each(:pseudonyms)"),
    "postgresql": sa.text("SELECT value FROM json_array_elements_text(CAST(:pseudonyms AS json))"),
}
_CHANGES: Final = {
    dialect: sa.select(users.c.pseudonym, users.c.number, users.c.changes).where(users.c.pseudonym.in_(given))
    for dialect, given in _GIVEN.items()
}
_ERASURES: Final = sa.select(sa.func.count(), sa.func.coalesce(sa.func.max(erased.c.until_us), 0)).select_from(erased)
_REVISION: Final = sa.select(state.c.revision)
_LAST_NUMBER: Final = sa.select(sa.func.coalesce(sa.func.max(interactions.c.number), 0))
#: Not distinct users: SQLite would walk another index for them, from end to end.
_SINCE: Final = (
    sa.select(interactions.c.number, users.c.pseudonym)
    .join_from(interactions, users, users.c.number == interactions.c.user)
    .where(interactions.c.number > sa.bindparam("last", type_=sa.BigInteger))
    .order_by(interactions.c.number)
    .limit(sa.bindparam("most", type_=sa.Integer))
)


def last_number(connection: sa.Connection) -> int:
    """Number of the last interaction; 0 without any."""
    return int(fetched(connection, _LAST_NUMBER)[0][0])


def recorded_since(connection: sa.Connection, last: int, most: int) -> list[tuple[int, str]]:
    """Numbers and pseudonyms of users of the interactions after the last number, at most so many, in their order."""
    return fetched(connection, _SINCE, {"last": last, "most": most})


def revision(connection: sa.Connection) -> int:
    """Revision of the store, as this transaction sees it."""
    return int(fetched(connection, _REVISION)[0][0])


def change_numbers(connection: sa.Connection, pseudonyms: Iterable[str]) -> dict[str, Change]:
    """The number and the count of changes of each user; unknown users are left out."""
    asked = msgspec.json.encode(list(pseudonyms)).decode()
    found = fetched(connection, _CHANGES[connection.dialect.name], {"pseudonyms": asked})
    return {pseudonym: (number, changes) for pseudonym, number, changes in found}


def erasures(connection: sa.Connection) -> Change:
    """The number of tombstones and the last end of one, which change whenever a user is erased."""
    found: Change = fetched(connection, _ERASURES)[0]
    return found
