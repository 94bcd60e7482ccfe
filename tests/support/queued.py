"""Waiting for calls to queue up behind a commit, or to be in it."""

from __future__ import annotations

import time
from typing import Any

from recserve_server_ext.group_commit import GroupCommit

_LIMIT_S = 60.0


def arrived(commit: GroupCommit[Any, Any], count: int) -> None:
    """Return when this many pieces of work wait; arriving wakes nobody, so it looks again and again."""
    until = time.monotonic() + _LIMIT_S
    with commit._changed:
        while commit._size < count:
            assert time.monotonic() < until, f"{commit._size} of {count} arrived"
            commit._changed.wait(0.005)


def unanswered(commit: GroupCommit[Any, Any], count: int) -> None:
    """Return when this many pieces of work wait or are being committed."""
    until = time.monotonic() + _LIMIT_S
    with commit._changed:
        while commit.waiting < count:
            assert time.monotonic() < until, f"{commit.waiting} of {count} came"
            commit._changed.wait(0.005)
