"""Whether other programs used the cores during a measurement."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

import psutil

from recserve_server_ext.common import cpu


class CpuContention:
    """CPU that programs other than this one and its children used, from when it was made.

    A share of all cores: 0.5 on two cores is one core. Time that the hypervisor took counts as theirs.
    """

    def __init__(self) -> None:
        self._start_s = time.monotonic()
        self._busy_s, self._own_s = _busy_s(), _own_s()

    def share(self) -> float:
        """Their share so far; processes of ours that ended count as ours once they were waited for."""
        others_s = (_busy_s() - self._busy_s) - (_own_s() - self._own_s)
        return max(0.0, others_s / (time.monotonic() - self._start_s) / cpu.usable_cores())


def _busy_s() -> float:
    cores = psutil.cpu_times(percpu=True)
    usable = os.sched_getaffinity(0)
    return sum(
        core.user + core.nice + core.system + core.irq + core.softirq + core.steal
        for number, core in enumerate(cores)
        if number in usable
    )


def _own_s() -> float:
    own = psutil.Process(os.getpid())
    return sum(_cpu_s([own, *own.children(recursive=True)]))


def _cpu_s(processes: Iterable[psutil.Process]) -> Iterable[float]:
    for process in processes:
        try:
            yield sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
