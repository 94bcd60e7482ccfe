"""Waiting for calls to queue up behind a commit, or to be in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from recserve_server_ext.storage.group_commit import GroupCommit

_LIMIT_S = 60.0


def arrived(commit: GroupCommit[Any, Any], count: int) -> None:
    """Return when this many pieces of work wait."""
    _wait(commit, lambda: commit._size, count)


def unanswered(commit: GroupCommit[Any, Any], count: int) -> None:
    """Return when this many pieces of work wait or are being committed."""
    _wait(commit, lambda: commit.waiting, count)


def _wait(commit: GroupCommit[Any, Any], arrivals: Callable[[], int], count: int) -> None:
    """Look again and again: arriving wakes nobody."""
    until = time.monotonic() + _LIMIT_S
    with commit._changed:
        while arrivals() < count:
            assert time.monotonic() < until, f"{arrivals()} of {count} came"
            commit._changed.wait(0.005)
