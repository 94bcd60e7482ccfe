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
_SLASHED: Final = re.compile(r"(\d{1,4})([/.-])(\d{1,2})\2(\d{1,4})")
_CLOCKS: Final = ("%H:%M:%S", "%H:%M:%S.%f", "%H:%M", "%I:%M:%S %p", "%I:%M %p")
_DATES: Final = (
    "%B %d, %Y", "%b %d, %Y", "%B %d %Y", "%b %d %Y", "%d %B %Y", "%d %b %Y", "%d-%b-%Y", "%d-%b-%y", "%m %d, %Y",
    "%Y-%m-%d",
)  # fmt: skip
_FORMS: Final = ("%a %b %d %H:%M:%S %z %Y", "%a %b %d %H:%M:%S %Y")
#: A date and a clock, then what says that it is Greenwich's time or how far from it.
_ZONED: Final = re.compile(r"(.+\d:\d\d(?::\d\d(?:\.\d+)?)?(?: ?[APap][Mm])?) ?(?:(UTC|GMT|Z)|([+-])(\d\d):?(\d\d))")
#: The clock at the end of a time, after a space or `T`, in some forms with a comma.
_CLOCK: Final = re.compile(r"(.+?),?[ T]+(\d{1,2}:\d\d(?::\d\d(?:\.\d{1,6})?)?(?: ?[APap]\.?[Mm]\.?)?)")
#: RFC 5322, in mails and HTTP.
_MAIL: Final = re.compile(r"(?:\w{3}, ?)?\d{1,2} \w{3} \d{4} \d\d:\d\d(?::\d\d)? (?:[+-]\d{4}|[A-Z]{1,3})")


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
        scales = np.select([size >= least for least, _ in _MAGNITUDES], [scale for _, scale in _MAGNITUDES], 1.0)
        seconds: Floats = numbers / scales
        return seconds

    def _moment(self, text: str) -> datetime.datetime | None:
        try:
            return datetime.datetime.fromisoformat(text)
        except ValueError:
            pass
        if (found := _by_form(text, _FORMS)) is not None:
            return found
        if _MAIL.fullmatch(text):
            return _mailed(text)
        if (zoned := _ZONED.fullmatch(text)) is not None:
            found = self._local(zoned[1].strip())
            return None if found is None else found.replace(tzinfo=_offset(zoned))
        return self._local(text)

    def _local(self, text: str) -> datetime.datetime | None:
        """A date, with or without a clock."""
        if (clocked := _CLOCK.fullmatch(text)) is not None:
            date, clock = self._date(clocked[1]), _clock(clocked[2])
            return None if date is None or clock is None else datetime.datetime.combine(date, clock)
        return self._date(text)

    def _date(self, text: str) -> datetime.datetime | None:
        if (found := _SLASHED.fullmatch(text)) is not None:
            return self._slashed(*found.groups())
        return _by_form(text, _DATES)

    def _slashed(self, first: str, _: str, second: str, third: str) -> datetime.datetime | None:
        """2024/03/04, and 03/04/2024 with the month first, unless asked otherwise."""
        year, month, day = (first, second, third) if len(first) == 4 else (third, first, second)
        if len(first) != 4 and self._day_first:
            month, day = day, month
        if len(year) != 4:
            return None
        try:
            return datetime.datetime(int(year), int(month), int(day))
        except ValueError:
            return None


def _mailed(text: str) -> datetime.datetime | None:
    try:
        return parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None


def _clock(text: str) -> datetime.time | None:
    text = text.replace(".m", "m").replace(".M", "M").removesuffix(".") if text[-1:] in ".mM" else text
    found = _by_form(re.sub(r"(\d)([APap])", r"\1 \2", text), _CLOCKS)
    return None if found is None else found.time()


def _by_form(text: str, forms: tuple[str, ...]) -> datetime.datetime | None:
    for form in forms:
        try:
            return datetime.datetime.strptime(text, form)
        except ValueError:
            continue
    return None


def _offset(zoned: re.Match[str]) -> datetime.tzinfo:
    """The time zone of a text that `_ZONED` fits."""
    if zoned[2]:
        return datetime.UTC
    distance = datetime.timedelta(hours=int(zoned[4]), minutes=int(zoned[5]))
    return datetime.timezone(distance if zoned[3] == "+" else -distance)


def _scale_of(value: float) -> float:
    size = abs(value)
    for least, scale in _MAGNITUDES:
        if size >= least:
            return scale
    return 1
