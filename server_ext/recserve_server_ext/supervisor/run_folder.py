"""The folder of one running server under HOME/run, and the removal of folders that were left behind."""

from __future__ import annotations

import fcntl
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from recserve_server_ext.common.errors import LaunchError
from recserve_server_ext.common.files import LOCK, exclusive


@dataclass(frozen=True)
class RunFolder:
    """A folder that this process holds until it releases it or ends.

    Attributes:
        path: Absolute path.
        handle: File descriptor of the lock.
    """

    path: Path
    handle: int

    def release(self) -> None:
        """Leave the folder to the next server."""
        os.close(self.handle)


def take_run_folder(run: Path, name: str) -> RunFolder:
    """Make and hold `run`/`name`, or raise LaunchError where it is held; folders of ended servers are removed."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        # A folder that another process has made but not locked yet must not be removed.
        with exclusive(run / LOCK):
            folder = run.resolve() / name
            folder.mkdir(exist_ok=True)
            handle = _try_lock(folder)
            if handle is None:
                raise LaunchError(f"another recserve serve runs from {folder}; stop it, or choose another --grpc-port")
            for other in run.resolve().iterdir():
                if other != folder and other.is_dir() and not is_held(other):
                    shutil.rmtree(other, ignore_errors=True)
    except OSError as error:
        raise LaunchError(f"cannot write {run}: {error.strerror or error}") from error
    return RunFolder(folder, handle)


def is_held(folder: Path) -> bool:
    """Whether a running server holds this folder."""
    handle = _try_lock(folder)
    if handle is not None:
        os.close(handle)
    return handle is None


def _try_lock(folder: Path) -> int | None:
    """A descriptor that holds the folder's lock, or `None`; the kernel releases it when the process dies."""
    handle = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle
