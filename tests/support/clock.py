"""A clock of the day that a test sets, for processes that it starts: the system's own stays as it is."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

#: Shifts what `clock_gettime` says of the time of day by what a mapped file holds, in seconds; other clocks are true.
_SHIFTED = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *shift;

__attribute__((constructor)) static void start(void) {
    int file = open(getenv("SHIFT_FILE"), O_RDONLY);
    if (file >= 0) shift = mmap(0, sizeof *shift, PROT_READ, MAP_SHARED, file, 0);
    if (file < 0 || shift == MAP_FAILED) abort();
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_REALTIME && shift) now->tv_sec += *shift;
    return failed;
}
"""


class NoCompilerError(Exception):
    """There is no C compiler here."""


class ShiftedClock:
    """The clock of all processes that are started with `environment`.

    Attributes:
        environment: What to start them with.
    """

    def __init__(self, folder: Path) -> None:
        """Make it, true at first.

        Raises:
            NoCompilerError: There is no compiler to make it with.
        """
        if (compiler := shutil.which("cc")) is None:
            raise NoCompilerError("there is no program cc")
        source, library, self._file = folder / "clock.c", folder / "clock.so", folder / "shift"
        source.write_text(_SHIFTED)
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(source)], check=True)
        self._file.write_bytes(bytes(8))
        self.environment = {"LD_PRELOAD": str(library), "SHIFT_FILE": str(self._file)}

    def shift(self, by_s: int) -> None:
        """From now on the time of day is so many seconds off."""
        with self._file.open("r+b") as file:  # in place: it is mapped
            file.write(struct.pack("=q", by_s))
