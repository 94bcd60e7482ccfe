"""Units of time and size."""

from __future__ import annotations

from typing import Final

#: Microseconds in a second.
MICROSECONDS: Final = 1_000_000
#: Seconds in a day.
DAY_S: Final = 86_400.0
#: Times before this one, within the first year since 1970, are the order of rows in a log without times.
ORDINALS_US: Final = 365 * 86_400 * MICROSECONDS
#: Bytes in a mebibyte.
MIB: Final = 2**20
#: The integers of 64 bits.
INT64: Final = range(-(2**63), 2**63)
