"""Checks that run in a process of their own, which may die of what it loads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence


def fault_of(module: str, arguments: Sequence[str], timeout_s: float) -> str:
    """Run a module as a script; the last line that it wrote to standard error where it failed, empty where not."""
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{arguments[0]} could not be loaded within {timeout_s:.0f} s"
    if not done.returncode:
        return ""
    return (done.stderr.strip().splitlines()[-1:] or [f"{arguments[0]}: exit code {done.returncode}"])[0]
