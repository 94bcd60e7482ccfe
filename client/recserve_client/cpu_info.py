"""What Linux tells of the CPU; imported before numpy, so it imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")


def cpu_info(name: str) -> str:
    """A field of the first CPU in /proc/cpuinfo, such as ``flags``; empty where it has none, or is not Linux."""
    if not _CPU_INFO.is_file():
        return ""
    with _CPU_INFO.open() as lines:
        return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), "")
