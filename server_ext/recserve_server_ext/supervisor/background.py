"""A command beside the server: one process at a time, with low priority, started and ended by the supervisor."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Final

from recserve_server_ext.common.priority import yield_to_others

_STOP_S: Final = 10.0
_SHOWN: Final = 300


class Background:
    """Runs a command; never waits but in `stop`."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._process: subprocess.Popen[str] | None = None

    @property
    def is_running(self) -> bool:
        """Whether the command was started and `ended` has not told its end."""
        return self._process is not None

    def start(self) -> None:
        """Start the command; it yields the CPU and the disk to others."""
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        yield_to_others(self._process.pid)

    def ended(self) -> str | None:
        """`None` while it runs; then once what went wrong, empty where nothing did."""
        if self._process is None or self._process.poll() is None:
            return None
        _, errors = self._process.communicate()
        code, self._process = self._process.returncode, None
        return (errors.strip()[-_SHOWN:] or f"exit code {code}") if code else ""

    def stop(self) -> None:
        """End the command."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
