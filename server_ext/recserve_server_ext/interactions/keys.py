"""Which keys are in force: those of the key file, as far as the store has come, and never any others."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import sqlalchemy as sa

from recserve_server_ext.common.errors import UserKeysError
from recserve_server_ext.interactions.pseudonyms import Pseudonyms
from recserve_server_ext.interactions.tables import state
from recserve_server_ext.storage.database import Database

#: Before keys that could not be settled are looked for again.
_PAUSE_S: Final = 1.0
_HELD: Final = sa.select(state.c.ring, state.c.rotations)


class UserKeys:
    """The keys that a process makes pseudonyms with.

    The store says which ring its pseudonyms were made by. A rotation adds a key to the file first and changes the store
    then, so the file may hold a key more than the store has come to: the ring in force is the part of it that the
    store names. Every transaction that is about users compares the two; see `check`.
    """

    def __init__(self, read: Callable[[], Pseudonyms]) -> None:
        """
        Args:
            read: Reads the whole ring; asked again where the store has come further.

        Raises:
            ConfigError: It cannot be read.
        """
        self._read = read
        self._all = read()
        self._pause_until = 0.0
        self._fault = ""
        #: The ring in force; changes in `settle` alone.
        self.pseudonyms = self._all
        #: Whether the store has been asked, and has said nothing else since.
        self.is_settled = False

    def settle(self, database: Database) -> None:
        """Take the ring that the store names; a store that names none yet is told of one.

        Raises:
            UserKeysError: The keys at hand are not those of the store.
            InteractionError: The store cannot be used.
            ConfigError: The keys cannot be read.
        """
        with database.reading() as connection:
            held = connection.execute(_HELD).one().ring
        if held is None:
            with database.writing() as connection:
                held = _told(connection, self._all)
        found = self._all.at(held)
        if found is None:
            self._all = self._read()
            found = self._all.at(held)
        if found is None:
            raise UserKeysError(
                f"the pseudonyms of {database.shown} were made by other keys ({held}) than those at hand "
                f"({self._all.fingerprint}); give this process the key file that belongs to the store"
            )
        self.pseudonyms, self.is_settled, self._fault = found, True, ""

    def follow(self, database: Callable[[], Database]) -> bool:
        """Settle where that is due; whether other keys are in force now. To be called between two batches.

        Where it fails `check` says why, and it is tried again after a second.

        Args:
            database: Opens the store.
        """
        if self.is_settled or time.monotonic() < self._pause_until:
            return False
        before = self.pseudonyms
        try:
            self.settle(database())
        except Exception as error:
            self._pause_until = time.monotonic() + _PAUSE_S
            self._fault = str(error)
        return self.pseudonyms is not before

    def check(self, connection: sa.Connection) -> None:
        """See that the pseudonyms of the store are made by the ring in force, as of this transaction.

        Raises:
            UserKeysError: They are not.
        """
        if connection.execute(_HELD).one().ring != self.pseudonyms.fingerprint:
            self.is_settled = False
            raise UserKeysError(self._fault or "the keys of the pseudonyms have been rotated; send this once more")


def check_without(connection: sa.Connection) -> None:
    """See that a store can be used for users without any key: none was rotated.

    Raises:
        UserKeysError: A key was rotated: what was erased before can be recognised with the keys alone.
    """
    if connection.execute(_HELD).one().rotations:
        raise UserKeysError("the keys of the pseudonyms of this store were rotated, so the key file is needed")


def _told(connection: sa.Connection, ring: Pseudonyms) -> str:
    """Write the ring into a store that names none, unless another process was faster; the fingerprint it has then."""
    named = {"ring": ring.fingerprint, "rotations": ring.rotations}
    connection.execute(sa.update(state).where(state.c.ring.is_(None)).values(named))
    return str(connection.execute(_HELD).one().ring)
