"""Training beside the server: all is trained again when the last training is old enough."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from recserve_server_ext.index.trained_versions import current_spaces, last_training
from recserve_server_ext.supervisor.background import Background
from recserve_server_ext.supervisor.event_log import EventLog


class Trainer:
    """Runs `recserve train all` in a process of its own, one at a time and with low priority.

    What it learned serves where the newest slice of the log does not show that it is worse; see
    `recserve_export.training.run.judge`.
    """

    def __init__(
        self,
        spaces: Path,
        command: Sequence[str],
        every_s: float,
        log: EventLog,
        *,
        pause_s: float = 600.0,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            spaces: Folder of trained spaces.
            command: The training.
            every_s: Seconds after the last training until the next.
            log: Where events go.
            pause_s: Seconds until a training that failed is tried again.
            clock: Seconds since 1970.
            timer: Seconds that pass, however the clock is set.
        """
        self._spaces = spaces
        self._command = Background(command)
        self._every_s = every_s
        self._log = log
        self._pause_s = pause_s
        self._clock = clock
        self._timer = timer
        self._not_before = 0.0

    def check(self) -> None:
        """Start a training that is due, or note the end of the running one; never raises, never waits."""
        if self._command.is_running:
            self._collect()
            return
        last = last_training(self._spaces)
        is_due = last is None or self._clock() >= last + self._every_s
        if is_due and self._timer() >= self._not_before:
            self._log("training_started")
            self._command.start()

    def stop(self) -> None:
        """End the running training; the next one goes on where it was."""
        self._command.stop()

    def _collect(self) -> None:
        fault = self._command.ended()
        if fault is None:
            return
        if fault:
            self._not_before = self._timer() + self._pause_s
            self._log("training_failed", fault=fault.replace("\n", " | "), next_s=self._pause_s)
        else:
            self._not_before = self._timer() + min(self._pause_s, self._every_s)
            served = {name: folder.name for name, folder in current_spaces(self._spaces).items()}
            self._log("trained", **served)


def train_command(
    home: Path, interactions: str, rules: str, trainings: Mapping[str, Mapping[str, Any]] | None = None
) -> list[str]:
    """The command that trains everything on the served log, with the rules and the trainings of the settings."""
    program = [sys.executable, "-m", "recserve_client.cli.main", "train", "all", "--home", str(home)]
    given = [
        f"--set={training}.{name}={msgspec.json.encode(value).decode()}"
        for training, settings in (trainings or {}).items()
        for name, value in settings.items()
    ]
    return [*program, "--store", interactions, *(["--rules", rules] if rules else []), *given]
