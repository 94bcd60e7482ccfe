"""The supervisor's log: a line an event, as text or as JSON, never with the content of a request."""

from __future__ import annotations

import sys
import threading
from datetime import UTC, datetime
from typing import TextIO

import msgspec

Value = str | int | float


class EventLog:
    """Writes events to standard error, from any thread."""

    def __init__(self, *, as_json: bool, stream: TextIO | None = None) -> None:
        self._as_json = as_json
        self._stream = stream or sys.stderr
        self._lock = threading.Lock()

    def __call__(self, event: str, **fields: Value) -> None:
        """Write one event, named in the past tense: ``ready``, ``model_reloaded`` ..."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        if self._as_json:
            line = msgspec.json.encode({"time": now, "event": event, **fields}).decode()
        else:
            line = " ".join([now[11:23], event, *(f"{name}={value}" for name, value in fields.items())])
        with self._lock:
            print(line, file=self._stream, flush=True)
