"""The export lock: one export at a time into a folder of encoders, which begins without what a killed one left."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recserve_export.errors import ExportError
from recserve_server_ext.common.files import LOCK
from recserve_server_ext.encoder.versions import VERSIONS


@contextmanager
def only_export(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder of encoders; the kernel lets go when the process dies.

    Raises:
        ExportError: Another process holds it; the message names it.
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 32).decode(errors="replace").strip() or "another one"
            raise ExportError(f"process {holder} is exporting into {folder}; try again when it has ended") from None
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        _sweep(folder)
        _sweep(folder / VERSIONS)
        yield
    finally:
        os.close(handle)


def _sweep(folder: Path) -> None:
    """Remove what a killed export left; put back an encoder that it had moved away and not yet replaced."""
    for path in sorted(folder.glob(".*.old")):
        target = folder / path.name.split(".")[1]
        if not target.exists():
            path.rename(target)
    for pattern in (".*.tmp", ".*.old"):
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
