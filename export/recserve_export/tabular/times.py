"""Times of a source -> seconds since 1970: numbers of any unit, and dates and times as text."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

import numpy as np

from recserve_export.tabular.dates import moment_in, unread
from recserve_export.tabular.values import number_in
from recserve_server_ext.common.arrays import Floats

TimeUnit = Literal["auto", "s", "ms", "us", "ns", "excel", "digits"]
UNITS_PER_SECOND: Final[dict[TimeUnit, int]] = {"s": 1, "ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}
#: Least numbers that are taken as milli-, micro- and nanoseconds: as seconds they would lie after the year 5138.
_MAGNITUDES: Final = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))
#: Day 0 of a spreadsheet, and its days 1970-01-01 and 2100-01-01.
_DAY_0: Final = datetime.datetime(1899, 12, 30)
_EXCEL: Final = (25_569, 73_051)
#: Forms of dates that are numbers, by the number of their digits.
_DIGITS: Final = {4: "%Y", 8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
_YEARS: Final = (1970, 2100)


class Times:
    """Reads times.

    Args:
        unit: Unit of times that are numbers; `auto` tells it by their size. `excel` are days since 1899-12-30,
            `digits` are 20240301, 202403011200, 20240301120000 or 2024.
        zone: Name of the time zone of dates and times that name none.
        day_first: Whether 03/04/2024 is the third of April.
    """

    def __init__(self, unit: TimeUnit = "auto", zone: str = "UTC", *, day_first: bool = False) -> None:
        self._unit = unit
        self._scale = UNITS_PER_SECOND.get(unit)
        self._zone: datetime.tzinfo = datetime.UTC if zone == "UTC" else ZoneInfo(zone)
        self._day_first = day_first

    def seconds(self, value: Any) -> float | None:
        """Seconds since 1970; `None` for what is no time.

        Raises:
            OverflowError: The number is too large for any time.
        """
        if type(value) is str:
            text = value.strip()
            # A plain number is a number, whatever date it looks like; 2024-03-01 is none.
            number = None if text[4:5] == "-" else number_in(text)
            value = moment_in(text, self._zone, day_first=self._day_first) if number is None else number
        if isinstance(value, datetime.datetime):
            return (value if value.tzinfo else value.replace(tzinfo=self._zone)).timestamp()
        if isinstance(value, datetime.date):
            return datetime.datetime(value.year, value.month, value.day, tzinfo=self._zone).timestamp()
        if isinstance(value, Decimal):
            value = float(value)
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        if self._unit in ("excel", "digits"):
            found = _in_digits(value) if self._unit == "digits" else _DAY_0 + datetime.timedelta(days=float(value))
            return None if found is None else found.replace(tzinfo=self._zone).timestamp()
        return value / (self._scale or _scale_of(value))

    def many(self, numbers: Floats) -> Floats:
        """Seconds since 1970 of times that are numbers, [n] -> [n]; NaN for what is no time."""
        if self._unit in ("excel", "digits"):
            return np.array([self._or_nan(number) for number in numbers.tolist()])
        if self._scale is not None:
            return numbers / self._scale
        size = np.abs(numbers)
        scales = np.select([size >= least for least, _ in _MAGNITUDES], [scale for _, scale in _MAGNITUDES], 1.0)
        seconds: Floats = numbers / scales
        return seconds

    def unread(self, value: object) -> str:
        """What would help to read a value as a time, for a message; empty where nothing would."""
        return unread(value.strip(), day_first=self._day_first) if isinstance(value, str) else ""

    def _or_nan(self, number: float) -> float:
        try:
            found = self.seconds(number)
        except (OverflowError, ValueError):
            return math.nan
        return math.nan if found is None else found


def guess_unit(values: Sequence[Any]) -> TimeUnit:
    """The unit of the times of a column, where they are numbers that are no seconds since 1970: they are few then.

    Days of a spreadsheet and digits of dates would all lie in the first days of 1970, or in another century.
    """
    numbers = [number_in(value.strip()) if isinstance(value, str) else value for value in values]
    found = [one for one in numbers if isinstance(one, int | float) and not isinstance(one, bool)]
    if not found or not all(map(math.isfinite, found)):
        return "auto"
    if all(_EXCEL[0] <= one < _EXCEL[1] for one in found):
        return "excel"
    return "digits" if all(_in_digits(one) is not None for one in found) else "auto"


def _in_digits(value: float) -> datetime.datetime | None:
    """The moment of 20240301, 202403011200, 20240301120000 or 2024; `None` for any other number."""
    text = str(int(value)) if value == int(value) else ""
    if len(text) not in _DIGITS or not _YEARS[0] <= int(text[:4]) < _YEARS[1]:
        return None
    try:
        return datetime.datetime.strptime(text, _DIGITS[len(text)])
    except ValueError:
        return None


def _scale_of(value: float) -> float:
    size = abs(value)
    for least, scale in _MAGNITUDES:
        if size >= least:
            return scale
    return 1
