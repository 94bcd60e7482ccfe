"""Reads for processes of their own, which import them from here."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from recserve_export.errors import ExportError
from recserve_server_ext.common.errors import SnapshotError


def count(path: Path) -> tuple[int, int]:
    """How often this was called, and the process that called it."""
    with path.open("a") as file:
        file.write("x")
    return path.stat().st_size, os.getpid()


def fail(path: Path) -> None:
    """Fail in another way at each call; the third one kills its process."""
    count(path)
    if path.stat().st_size == 1:
        raise SnapshotError("no snapshot")
    if path.stat().st_size == 2:
        raise ExportError("no file")
    os.kill(os.getpid(), signal.SIGKILL)
