"""Times of a source -> seconds since 1970: numbers of any unit, ISO 8601, and the usual forms with slashes."""

from __future__ import annotations

import datetime
import re
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

import numpy as np

from recserve_export.tabular.values import number_in
from recserve_server_ext.common.arrays import Floats

TimeUnit = Literal["auto", "s", "ms", "us", "ns"]
UNITS_PER_SECOND: Final[dict[TimeUnit, int]] = {"s": 1, "ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}
#: Least numbers that are taken as milli-, micro- and nanoseconds: as seconds they would lie after the year 5138.
_MAGNITUDES: Final = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))
_SLASHED: Final = re.compile(r"(\d{1,4})([/.-])(\d{1,2})\2(\d{1,4})(?:[ T,]+(.+))?")
_CLOCKS: Final = ("%H:%M:%S", "%H:%M:%S.%f", "%H:%M", "%I:%M:%S %p", "%I:%M %p")
_FORMS: Final = (
    "%a %b %d %H:%M:%S %z %Y",  # Goodreads
    "%B %d, %Y", "%b %d, %Y", "%d %B %Y", "%d %b %Y", "%d-%b-%Y", "%d-%b-%y",
    "%b %d, %Y %H:%M:%S", "%d %b %Y %H:%M:%S", "%Y-%m-%d %I:%M:%S %p",
    "%Y-%m-%d %H:%M:%S %Z", "%m %d, %Y",
)  # fmt: skip


class Times:
    """Reads times.

    Args:
        unit: Unit of times that are numbers; `auto` tells it by their size.
        zone: Name of the time zone of dates and times that name none.
        day_first: Whether 03/04/2024 is the third of April.
    """

    def __init__(self, unit: TimeUnit = "auto", zone: str = "UTC", *, day_first: bool = False) -> None:
        self._scale = None if unit == "auto" else UNITS_PER_SECOND[unit]
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
            value = self._moment(text) if number is None else number
        if isinstance(value, datetime.datetime):
            return (value if value.tzinfo else value.replace(tzinfo=self._zone)).timestamp()
        if isinstance(value, datetime.date):
            return datetime.datetime(value.year, value.month, value.day, tzinfo=self._zone).timestamp()
        if isinstance(value, Decimal):
            value = float(value)
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        return value / (self._scale or _scale_of(value))

    def many(self, numbers: Floats) -> Floats:
        """Seconds since 1970 of times that are numbers, [n] -> [n]."""
        if self._scale is not None:
            return numbers / self._scale
        size = np.abs(numbers)
        return numbers / np.select([size >= least for least, _ in _MAGNITUDES], [scale for _, scale in _MAGNITUDES], 1)

    def _moment(self, text: str) -> datetime.datetime | None:
        try:
            return datetime.datetime.fromisoformat(text)
        except ValueError:
            pass
        if (found := _SLASHED.fullmatch(text)) is not None:
            return self._slashed(*found.groups())
        for form in _FORMS:
            try:
                return datetime.datetime.strptime(text, form)
            except ValueError:
                continue
        try:
            return parsedate_to_datetime(text)
        except (ValueError, TypeError):
            return None

    def _slashed(self, first: str, _: str, second: str, third: str, clock: str | None) -> datetime.datetime | None:
        """2024/03/04, and 03/04/2024 with the month first, unless asked otherwise."""
        year, month, day = (first, second, third) if len(first) == 4 else (third, first, second)
        if len(first) != 4 and self._day_first:
            month, day = day, month
        if len(year) != 4:
            return None
        try:
            date = datetime.datetime(int(year), int(month), int(day))
        except ValueError:
            return None
        if clock is None:
            return date
        for form in _CLOCKS:
            try:
                time = datetime.datetime.strptime(clock.strip(), form).time()
            except ValueError:
                continue
            return datetime.datetime.combine(date, time)
        return None


def _scale_of(value: float) -> float:
    size = abs(value)
    for least, scale in _MAGNITUDES:
        if size >= least:
            return scale
    return 1
