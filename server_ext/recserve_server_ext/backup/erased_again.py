"""Erases again, in a restored store, who was erased after its backup was made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import sqlalchemy as sa

from recserve_server_ext.common.errors import InteractionError, UserKeysError
from recserve_server_ext.interactions.erasure import erase, leave_tombstone
from recserve_server_ext.interactions.ledger import Note, renewed
from recserve_server_ext.interactions.pseudonyms import Pseudonyms
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.interactions.tables import state, users

_PAGE: Final = 5000
_HELD: Final = sa.select(state.c.revision, state.c.ring)


def erase_again(store: InteractionStore, notes: Sequence[Note], known: Pseudonyms | None) -> int:
    """Erase the users that these notes are about, in one transaction; how many of them the store held.

    Who is not in the store gets the tombstone, so that no late replay brings anything. The revision of the store passes
    that of every note: what is erased from now on is told from these by it.

    Args:
        notes: Erasures that the store does not know.
        known: All keys; `None` where there are none. Then the notes must be under the keys of the store.

    Raises:
        UserKeysError: Keys are missing that the store or a note was made with.
        InteractionError: The store cannot be written.
    """
    if not notes:
        return 0
    with store.database.writing() as connection:
        store.check(connection)
        fitting = _fitting(store, notes, known, str(connection.execute(_HELD).one().ring or ""))
        by_mark = {note.mark: note for note in sorted(fitting, key=lambda note: note.revision)}
        count = 0
        for pseudonym in _pseudonyms(connection):
            if (note := by_mark.pop(store.mark_of(pseudonym), None)) is not None:
                erase(connection, pseudonym, note.erased_us, note.until_us, store.mark_of)
                count += 1
        for note in by_mark.values():
            leave_tombstone(connection, note.mark, note.erased_us, note.until_us)
        passed = max(connection.execute(_HELD).one().revision, *(note.revision for note in notes)) + 1
        connection.execute(sa.update(state).values(revision=passed))
    if not store.database.purge():
        raise InteractionError(f"a reader keeps the old log of {store} in use; restore again")
    return count


def _fitting(store: InteractionStore, notes: Sequence[Note], known: Pseudonyms | None, ring: str) -> list[Note]:
    """The notes with the marks that the keys of the store make."""
    if known is None or store.keys is None:
        found: list[Note | None] = [note if note.ring in ("", ring) else None for note in notes]
    else:
        found = [renewed(note, store.keys.pseudonyms, known) for note in notes]
    missing = next((note.ring for note, one in zip(notes, found, strict=True) if one is None), None)
    if missing is not None:
        raise UserKeysError(
            f"an erasure after the backup is noted under the keys {missing}; put the key file that has them, "
            "pseudonym.key, into the home first"
        )
    return [note for note in found if note is not None]


def _pseudonyms(connection: sa.Connection) -> Iterator[str]:
    query = sa.select(users.c.number, users.c.pseudonym).order_by(users.c.number).limit(_PAGE)
    after = 0
    while found := connection.execute(query.where(users.c.number > after)).all():
        yield from (row.pseudonym for row in found)
        after = found[-1].number
