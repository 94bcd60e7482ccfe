"""The keys in force: those of the key file, as far as the store has come."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import sqlalchemy as sa

from recserve_server_ext.common.errors import UserKeysError
from recserve_server_ext.interactions.pseudonyms import Pseudonyms
from recserve_server_ext.interactions.tables import state
from recserve_server_ext.storage.database import Database, fetched

#: Pause before keys that could not be settled are looked for again.
_PAUSE_S: Final = 1.0
_HELD: Final = sa.select(state.c.ring, state.c.rotations)


class UserKeys:
    """The keys that a process makes pseudonyms with.

    The store names the ring that made its pseudonyms. A rotation first adds a key to the file and then changes the
    store, so the file may be one key ahead: the ring in force is the part of it that the store names. Every transaction
    about users compares the two; see `check`.

    Attributes:
        pseudonyms: The ring in force; only `settle` changes it.
        is_settled: Whether the store named this ring, and nothing else since.
    """

    def __init__(self, read: Callable[[], Pseudonyms]) -> None:
        """
        Args:
            read: Reads the whole ring; called again when the store is ahead.

        Raises:
            ConfigError: The ring cannot be read.
        """
        self._read = read
        self._all = read()
        self._pause_until = 0.0
        self._fault = ""
        self.pseudonyms = self._all
        self.is_settled = False

    def settle(self, database: Database) -> None:
        """Take the ring that the store names; a new store gets the name of this ring.

        Raises:
            UserKeysError: The store was made with other keys.
            InteractionError: The store cannot be used.
            ConfigError: The keys cannot be read.
        """
        with database.reading() as connection:
            held = connection.execute(_HELD).one().ring
        if held is None:
            with database.writing() as connection:
                named = {"ring": self._all.fingerprint, "rotations": self._all.rotations}
                # Another process may have been faster.
                connection.execute(sa.update(state).where(state.c.ring.is_(None)).values(named))
                held = connection.execute(_HELD).one().ring
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
        """Settle again if needed, between two batches; whether other keys are in force now.

        After a failure `check` says why, and the next attempt comes a second later.
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
        """Raise UserKeysError unless, in this transaction, the ring in force made the pseudonyms of the store."""
        if fetched(connection, _HELD)[0][0] != self.pseudonyms.fingerprint:
            self.is_settled = False
            raise UserKeysError(self._fault or "the keys of the pseudonyms have been rotated; send this once more")


def check_without(connection: sa.Connection) -> None:
    """Raise UserKeysError where a key was rotated: then only the keys tell which users were erased before."""
    if fetched(connection, _HELD)[0][1]:
        raise UserKeysError("the keys of the pseudonyms of this store were rotated, so the key file is needed")
