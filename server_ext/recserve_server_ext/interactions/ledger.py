"""The ledger of erasures: a file that outlives backups, so that a restored one is erased again.

A line names nobody. It holds the mark of the tombstone, which only the user id and the keys lead to.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import sqlalchemy as sa

from recserve_server_ext.common.errors import InteractionError
from recserve_server_ext.common.files import exclusive, fsync_path, reading, write_file
from recserve_server_ext.interactions.pseudonyms import Pseudonyms
from recserve_server_ext.interactions.tables import erased, state

_ADVICE = "name another file with erasures in the table [users] of the settings"


class Note(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One erasure.

    Attributes:
        store: Identity of the interaction store.
        revision: Revision of the store afterwards.
        mark: Mark of the tombstone; see `recserve_server_ext.interactions.pseudonyms.tombstone_mark`.
        ring: Fingerprint of the keys that made the mark; empty for a store that was never opened with keys.
        at_us: When it was erased, in microseconds since 1970.
        erased_us: Interactions up to this time are refused.
        until_us: Until when they are.
    """

    store: str
    revision: int
    mark: str
    ring: str
    at_us: int
    erased_us: int
    until_us: int


class Ledger:
    """A ledger in a file, one JSON document a line. Several processes of a machine may add to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, notes: Sequence[Note]) -> None:
        """Add notes, fsynced when this returns; raises InteractionError where the file cannot be written."""
        lines = b"".join(msgspec.json.encode(note) + b"\n" for note in notes)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with exclusive(self._lock):
                is_new = not self.path.exists()
                with os.fdopen(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:
                    # What a killed process wrote of a line must not spoil the next one.
                    file.write(lines if is_new or _ends_a_line(self.path) else b"\n" + lines)
                    file.flush()
                    os.fsync(file.fileno())
                if is_new:
                    fsync_path(self.path.parent)
        except OSError as error:
            why = error.strerror or error
            raise InteractionError(f"the ledger of erasures {self.path} cannot be written: {why}; {_ADVICE}") from error

    def notes(self) -> list[Note]:
        """All notes, the oldest first; none without the file. A line that a killed process left unfinished is none.

        Raises:
            InteractionError: The file cannot be read, or another line is damaged.
        """
        if not self.path.exists():
            return []
        with reading(self.path, InteractionError, "restore it from a copy, or remove the damaged line"):
            found = [_read(line) for line in self.path.read_bytes().splitlines(keepends=True) if line.strip()]
        return [note for note in found if note is not None]

    def merge(self, notes: Iterable[Note]) -> int:
        """Add the notes that are not there yet; how many."""
        there = set(self.notes())
        new = [note for note in dict.fromkeys(notes) if note not in there]
        if new:
            self.add(new)
        return len(new)

    def renew(self, ring: Pseudonyms) -> None:
        """Give the notes of older keys of this ring the marks that it makes, all in one step."""
        if not self.path.exists():
            return
        with exclusive(self._lock):
            notes = [renewed(note, ring, ring) or note for note in self.notes()]
            write_file(self.path, b"".join(msgspec.json.encode(note) + b"\n" for note in notes), mode=0o600)

    @property
    def _lock(self) -> Path:
        return self.path.with_name(f".{self.path.name}.lock")


def note_of(connection: sa.Connection, mark: str, at_us: int) -> Note:
    """The note of the erasure that this transaction has made."""
    tombstone = connection.execute(sa.select(erased).where(erased.c.mark == mark)).one()
    held = connection.execute(sa.select(state.c.identity, state.c.revision, state.c.ring)).one()
    return Note(held.identity, held.revision, mark, held.ring or "", at_us, tombstone.erased_us, tombstone.until_us)


def renewed(note: Note, ring: Pseudonyms, known: Pseudonyms) -> Note | None:
    """The note with the mark that a ring makes; `None` where other keys than the known ones made it."""
    # Without keys a mark is that of the first key.
    before = known.at(note.ring) if note.ring else known.first(1)
    if before is None:
        return None
    return msgspec.structs.replace(note, mark=ring.renewed(note.mark, before), ring=ring.fingerprint)


def _read(line: bytes) -> Note | None:
    try:
        return msgspec.json.decode(line, type=Note)
    except msgspec.DecodeError:
        # A killed process leaves the beginning of a line: that of an erasure that was not answered.
        if line.startswith(b"{") and not line.rstrip().endswith(b"}"):
            return None
        raise


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
