"""CPU contention: how much of the cores other programs used during a measurement."""

from __future__ import annotations

import os
import time
from typing import Final

import psutil

from recserve_server_ext.common import cpu

#: Length of a look at the machine before a run, and of one after it.
_LOOK_S: Final = 2.0


class CpuContention:
    """CPU time that programs other than this one and its children used since it was made."""

    def __init__(self) -> None:
        self._start_s = time.monotonic()
        self._before_s = _others_s()

    def share(self) -> float:
        """Their share of all usable cores so far: 0.5 on two cores is one core."""
        others_s = _others_s() - self._before_s
        return max(0.0, others_s / (time.monotonic() - self._start_s) / cpu.usable_cores())


class RunContention:
    """The CPU contention of a whole run, and of a short look at the idle machine before it and after it."""

    def __init__(self) -> None:
        self._before = _look()
        self._during = CpuContention()

    def shares(self) -> dict[str, float]:
        """Shares `before`, `during` and `after`; call it when nothing of the run goes on any more."""
        return {"before": self._before, "during": self._during.share(), "after": _look()}


def _look() -> float:
    contention = CpuContention()
    time.sleep(_LOOK_S)
    return contention.share()


def _others_s() -> float:
    """Seconds of the usable cores, those that the hypervisor took included, less those of this program.

    Processes of ours that ended are in the times of this one once they were waited for.
    """
    cores = psutil.cpu_times(percpu=True)
    usable = [cores[number] for number in os.sched_getaffinity(0)]
    busy_s = sum(core.user + core.nice + core.system + core.irq + core.softirq + core.steal for core in usable)
    own = psutil.Process()
    for process in (own, *own.children(recursive=True)):
        try:
            busy_s -= sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return busy_s
