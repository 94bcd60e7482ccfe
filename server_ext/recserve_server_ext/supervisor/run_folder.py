"""The folder that one running server has for itself under HOME/run, and the removal of those left behind."""

from __future__ import annotations

import fcntl
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from recserve_server_ext.common.errors import LaunchError
from recserve_server_ext.common.files import exclusive

_LOCK = ".lock"


@dataclass(frozen=True)
class RunFolder:
    """A folder held by this process until it releases it or ends.

    Attributes:
        path: Absolute.
        handle: File descriptor of the lock.
    """

    path: Path
    handle: int

    def release(self) -> None:
        """Let the next server have or remove it."""
        os.close(self.handle)


def take_run_folder(run: Path, name: str) -> RunFolder:
    """Make `run`/`name` and hold it; folders of servers that have ended are removed.

    Raises:
        LaunchError: A running server holds it, or it cannot be written.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        # So that nobody removes a folder that another process has made and not locked yet.
        with exclusive(run / _LOCK):
            folder = run.resolve() / name
            folder.mkdir(exist_ok=True)
            handle = _try_lock(folder)
            if handle is None:
                raise LaunchError(f"another recserve serve runs from {folder}; stop it, or choose another --grpc-port")
            for other in run.resolve().iterdir():
                if other != folder and other.is_dir():
                    _remove_if_left(other)
    except OSError as error:
        raise LaunchError(f"cannot write {run}: {error.strerror or error}") from error
    return RunFolder(folder, handle)


def is_held(folder: Path) -> bool:
    """Whether a running server has this folder."""
    handle = _try_lock(folder)
    if handle is not None:
        os.close(handle)
    return handle is None


def _remove_if_left(folder: Path) -> None:
    handle = _try_lock(folder)
    if handle is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _try_lock(folder: Path) -> int | None:
    """A descriptor that holds the folder's lock; the kernel lets go when the process dies."""
    handle = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle
