"""Key rotation: the whole interaction store gets pseudonyms by a new key in one transaction, or not at all.

A rotation has three steps; after a crash, running it again finishes it:

1. The key file gets a new key. The store does not name it yet, so every process stays with the keys before.
2. One transaction rewrites the pseudonyms and names the new ring. Then no process uses the old ring; see `UserKeys`.
3. Traces of the old pseudonyms are cleared from the files, the ledger of erasures among them. Until then the store says
   that there are traces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import sqlalchemy as sa

from recserve_server_ext.common.errors import ConfigError, InteractionError
from recserve_server_ext.common.files import exclusive
from recserve_server_ext.interactions.key_file import KEY_VARIABLE, add_key, given_keys, read_pseudonyms
from recserve_server_ext.interactions.keys import UserKeys
from recserve_server_ext.interactions.ledger import Ledger
from recserve_server_ext.interactions.pseudonyms import Pseudonyms
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.interactions.tables import erased, state, users
from recserve_server_ext.storage.database import next_revision

_PAGE: Final = 5000
_Renew = Callable[[str], str]


class Rotation(msgspec.Struct, frozen=True):
    """The outcome of a rotation.

    Attributes:
        keys: Number of keys, all of which are needed from now on.
        resumed: Whether only the traces of an earlier rotation were left to clear.
    """

    users: int
    tombstones: int
    keys: int
    resumed: bool = False


def rotate(
    store: InteractionStore,
    key_file: Path,
    on_progress: Callable[[int], None] = lambda rows: None,
    ledger: Ledger | None = None,
) -> Rotation:
    """Bring a store under a new key: a key that the file already holds beyond those in force, or a new one.

    Writers wait while the transaction runs, and are refused after 10 s as always; readers go on.

    Args:
        key_file: The key file. Where the environment holds the keys, the new key must be there already.
        on_progress: Called with numbers of users that are done.
        ledger: The ledger of erasures, whose marks are renewed, too; `None` without one.

    Raises:
        ConfigError: The keys cannot be read or written, or the environment holds no new key.
        InteractionError: The store cannot be used, was made with other keys, or (SQLite) a reader kept the old log in
            use. In that last case the rotation is done, and running it again clears the traces.
    """
    keys = UserKeys(lambda: read_pseudonyms(key_file, make=False))
    key_file.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(key_file.with_name(f".{key_file.name}.lock")):
        keys.settle(store.database)
        if store.database.one(sa.select(state.c.traces)):
            _clear(store, ledger, keys.pseudonyms)
            return Rotation(0, 0, keys.pseudonyms.rotations + 1, resumed=True)
        ring = _next_ring(keys.pseudonyms, key_file)
        renew = partial(ring.renewed, before=keys.pseudonyms)
        with store.database.writing() as connection:
            keys.check(connection)
            done = Rotation(
                users=sum(_renew_users(connection, renew, on_progress)),
                tombstones=_renew_marks(connection, renew),
                keys=ring.rotations + 1,
            )
            named = {"ring": ring.fingerprint, "rotations": ring.rotations, "traces": True}
            connection.execute(sa.update(state).values(named))
            next_revision(connection, state)
        _clear(store, ledger, ring)
    return done


def _next_ring(current: Pseudonyms, key_file: Path) -> Pseudonyms:
    """The ring in force with one more key, which is on disk by then."""
    whole = read_pseudonyms(key_file, make=False)
    if whole.rotations == current.rotations:
        if given_keys() is not None:
            raise ConfigError(
                f"the environment variable {KEY_VARIABLE} holds no key beyond those in force; add a new one at its "
                "end, after a blank (such as `openssl rand -hex 32` prints), for every process of this store"
            )
        whole = add_key(key_file)
    return whole.first(current.rotations + 2)


def _clear(store: InteractionStore, ledger: Ledger | None, ring: Pseudonyms) -> None:
    """Clear all traces of the old pseudonyms from the files, and note that."""
    if ledger is not None:
        ledger.renew(ring)
    if not store.database.purge():
        raise InteractionError(
            f"the key is rotated, but a reader keeps the old log of {store} in use; run this again to clear it"
        )
    with store.database.writing() as connection:
        connection.execute(sa.update(state).values(traces=False))


def _renew_users(connection: sa.Connection, renew: _Renew, on_progress: Callable[[int], None]) -> Iterator[int]:
    """Replace the pseudonyms of users; yields how many, page by page."""
    change = sa.update(users).where(users.c.number == sa.bindparam("n")).values(pseudonym=sa.bindparam("renewed"))
    query = sa.select(users.c.number, users.c.pseudonym).order_by(users.c.number).limit(_PAGE)
    after = 0
    while found := connection.execute(query.where(users.c.number > after)).all():
        connection.execute(change, [{"n": number, "renewed": renew(old)} for number, old in found])
        on_progress(len(found))
        yield len(found)
        after = found[-1].number


def _renew_marks(connection: sa.Connection, renew: _Renew) -> int:
    """Replace the marks of tombstones; how many."""
    marks = list(connection.execute(sa.select(erased.c.mark)).scalars())
    change = sa.update(erased).where(erased.c.mark == sa.bindparam("old")).values(mark=sa.bindparam("renewed"))
    if marks:
        connection.execute(change, [{"old": mark, "renewed": renew(mark)} for mark in marks])
    return len(marks)
