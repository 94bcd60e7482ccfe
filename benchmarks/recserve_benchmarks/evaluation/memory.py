"""Memory of an evaluation: the bound, the users that fit at once, and the peak that was reached."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil

from recserve_benchmarks.errors import BenchmarkError
from recserve_server_ext.common.units import MIB

#: A score takes 4 bytes, and so do its copies: in random order, and as maxima of groups. Sparse products take 8.
_BYTES_OF_A_SCORE: Final = 24
#: Columns of an interaction: eight of 8 bytes, in the log, in its known part, and in what is sorted.
_BYTES_OF_AN_INTERACTION: Final = 3 * 64
#: More users at once are not faster.
_MOST_USERS: Final = 512
_STATUS: Final = Path("/proc/self/status")
_REFERENCES: Final = Path("/proc/self/clear_refs")


def default_bound() -> int:
    """Half of the memory that is free, in bytes."""
    return int(psutil.virtual_memory().available // 2)


def users_at_once(bound_bytes: int, interactions: int, items: int, dim: int) -> int:
    """Users whose scores of all items fit into the bound, beside the log and the vectors.

    Args:
        bound_bytes: All memory that may be used.
        interactions: Length of the log.
        items: Number of items.
        dim: Length of an item vector.

    Raises:
        BenchmarkError: Not even one user fits.
    """
    fixed = interactions * _BYTES_OF_AN_INTERACTION + 4 * items * dim
    found = (bound_bytes - fixed) // max(items * _BYTES_OF_A_SCORE, 1)
    if found < 1:
        needed = fixed + items * _BYTES_OF_A_SCORE
        raise BenchmarkError(
            f"{interactions:,} interactions and {items:,} items need {needed // MIB + 1:,} MiB; "
            f"{bound_bytes // MIB:,} MiB may be used: raise --memory"
        )
    return int(min(found, _MOST_USERS))


class Peak:
    """The largest memory of this process in MiB; NaN where the system does not tell.

    Attributes:
        before_mib: Since the measurement before this one, up to the block.
        mib: While the block ran.
    """

    before_mib: float = float("nan")
    mib: float = float("nan")


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure a block: Linux counts the peak anew after `clear_refs`."""
    peak = Peak()
    peak.before_mib = _peak_mib()
    with suppress(OSError):
        _REFERENCES.write_text("5")
    yield peak
    peak.mib = _peak_mib()


def _peak_mib() -> float:
    with suppress(OSError):
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return float("nan")
