"""A clock of the stages that a batch goes through together."""

from __future__ import annotations

import time
from typing import Final

STAGES: Final = ("candidates", "score", "rules")


class StageClock:
    """Time of each stage of a batch; a lap counts for the stage that ends with it.

    Attributes:
        took_ns: Nanoseconds by stage.
    """

    def __init__(self) -> None:
        self.took_ns = dict.fromkeys(STAGES, 0)
        self._last_ns = time.monotonic_ns()

    def lap(self, stage: str) -> None:
        """Add the time since the last lap to a stage."""
        now_ns = time.monotonic_ns()
        self.took_ns[stage] += now_ns - self._last_ns
        self._last_ns = now_ns

    @property
    def total_ns(self) -> int:
        """Nanoseconds of all stages together."""
        return sum(self.took_ns.values())
