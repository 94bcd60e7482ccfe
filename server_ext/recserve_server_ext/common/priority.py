"""The priority of processes that work beside a server."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import psutil

_NICE: Final = 10


def yield_to_others(pid: int | None = None) -> None:
    """Put a process below others in the use of the CPU, and of the disk where the system can.

    Threads that it starts afterwards follow it; those that it has already may not.

    Args:
        pid: Number of the process; `None` for this one.
    """
    with suppress(psutil.Error, AttributeError, OSError):  # no such priorities here, or it has ended already
        process = psutil.Process(pid)
        process.nice(max(process.nice(), _NICE))
        process.ionice(psutil.IOPRIO_CLASS_IDLE)
