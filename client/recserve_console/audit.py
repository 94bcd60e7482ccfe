"""The audit log: what was changed through the console, `HOME/console/audit.jsonl`, a line each."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime
from pathlib import Path

import msgspec


class AuditEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A change through the console.

    Attributes:
        time: Moment in UTC, ISO 8601.
        action: What was done, such as `item.delete`.
        what: What it was done to; never a user id.
        outcome: `done`, or why it was not.
        by: Id of the API key of who did it; empty where none was asked for.
    """

    time: str
    action: str
    what: str
    outcome: str = "done"
    by: str = ""


class Audit:
    """Writes the audit log; thread-safe."""

    def __init__(self, home: Path) -> None:
        self.path = home / "console" / "audit.jsonl"
        self._lock = threading.Lock()

    def write(self, action: str, what: str, outcome: str = "done", by: str = "") -> None:
        """Append an entry, fsynced; raises OSError where it cannot be written."""
        entry = AuditEntry(datetime.now(UTC).isoformat(timespec="seconds"), action, what, outcome, by)
        with self._lock:
            self.path.parent.mkdir(exist_ok=True)
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(handle, msgspec.json.encode(entry) + b"\n")
                os.fsync(handle)
            finally:
                os.close(handle)

    def newest(self, count: int) -> list[AuditEntry]:
        """The newest entries, the newest first."""
        if not self.path.is_file():
            return []
        lines = self.path.read_bytes().splitlines()[-count:]
        return [msgspec.json.decode(line, type=AuditEntry) for line in reversed(lines)]
