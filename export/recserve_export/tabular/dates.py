"""Dates and times as text -> datetimes: ISO 8601, and the forms that spreadsheets, logs and languages write."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

_SLASHED: Final = re.compile(r"(\d{1,4})([/.-])(\d{1,2})\2(\d{1,4})")
#: A day before or after its month, and the year at the end.
_ENDS_WITH_YEAR: Final = re.compile(r"\D*?(\d{1,2})([/.-])(\d{1,2})\2(?:\d{4}|\d\d(?=\s|$))")
_CLOCKS: Final = ("%H:%M:%S", "%H:%M:%S.%f", "%H:%M", "%I:%M:%S %p", "%I:%M %p")
_DATES: Final = (
    "%B %d, %Y", "%b %d, %Y", "%B %d %Y", "%b %d %Y", "%d %B %Y", "%d %b %Y", "%d-%b-%Y", "%d-%b-%y", "%m %d, %Y",
    "%Y-%m-%d",
)  # fmt: skip
#: Other ways to write a date or a clock, and what the rest of this module reads in their place.
_REWRITTEN: Final = tuple(
    (re.compile(pattern), other)
    for pattern, other in (
        (r"(\.\d{6})\d+", r"\1"),  # finer than a microsecond
        (r" ?\([^)]*\)$", ""),  # JavaScript: GMT+0100 (Central European Standard Time)
        (r"([+-]\d\d:?\d\d|Z)\[[^\]]+\]$", r"\1"),  # Java: +01:00[Europe/Paris]
        (r"^(?:Mon|Tues?|Wed(?:nes)?|Thu(?:rs)?|Fri|Sat(?:ur)?|Sun)(?:day)?\.?,? +", ""),
        (r"^(\w{3} +\d{1,2}) ([\d:.]+)( \S+)? (\d{4})$", r"\1 \4 \2\3"),  # date(1) and Twitter
        (r"^(\d{1,2})/([A-Z][a-z]{2})/(\d{4}):", r"\1 \2 \3 "),  # logs of web servers
        (r"(\d{4}) ?[年년] ?(\d{1,2}) ?[月월] ?(\d{1,2}) ?[日일]", r"\1/\2/\3"),
        (r"(\d{1,2})[時时시] ?(\d{1,2})[分분](?: ?(\d{1,2})[秒초])?", r"\1:\2:\3"),
        (r"(\d:\d\d?):$", r"\1"),
    )
)
#: The clock at the end of a time, after a space or `T`, in some forms with a comma.
_CLOCK: Final = re.compile(r"(.+?),?[ T]+(\d{1,2}:\d\d?(?::\d\d?(?:\.\d{1,6})?)?(?: ?[APap]\.?[Mm]\.?)?)")
#: A date and a clock, then how far from Greenwich, or the name of the zone.
_OFFSET: Final = re.compile(r"(.+\d:\d\d.*?) ?(?:UTC|GMT)?([+-])(\d\d?):?(\d\d)?")
_NAMED: Final = re.compile(r"(.+\d:\d\d.*?) ?\[?((?![AP]M)[A-Z]{1,5}|[A-Z][A-Za-z]+/[A-Za-z_/+-]+)\]?")
#: Hours from Greenwich by the name of a zone. BST, CST and IST are missing: each has several meanings.
_HOURS: Final = {
    "Z": 0, "UTC": 0, "UT": 0, "GMT": 0, "WET": 0, "WEST": 1, "CET": 1, "CEST": 2, "MET": 1, "MEST": 2, "MEZ": 1,
    "MESZ": 2, "EET": 2, "EEST": 3, "MSK": 3, "EST": -5, "EDT": -4, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8,
    "PDT": -7, "AKST": -9, "AKDT": -8, "HST": -10, "JST": 9, "KST": 9, "AEST": 10, "AEDT": 11, "NZST": 12, "NZDT": 13,
}  # fmt: skip
_CENTURY: Final = 69
#: Days and clocks that are kept: logs have far fewer of them than rows.
_KEPT: Final = 20_000


def moment_in(text: str, zone: datetime.tzinfo, *, day_first: bool) -> datetime.datetime | None:
    """The moment that a text names; `None` for what is no time.

    Args:
        text: The text.
        zone: Time zone of what names none.
        day_first: Whether 03/04/2024 is the third of April. Without, 03.04.2024 is no time: nobody puts months first
            between points.
    """
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        pass
    else:
        return found if found.tzinfo else found.replace(tzinfo=zone)
    for pattern, other in _REWRITTEN:
        text = pattern.sub(other, text)
    if (offset := _OFFSET.fullmatch(text)) is not None and (local := _local(offset[1], day_first=day_first)):
        distance = datetime.timedelta(hours=int(offset[3]), minutes=int(offset[4] or 0))
        if distance < datetime.timedelta(days=1):
            return local.replace(tzinfo=datetime.timezone(distance if offset[2] == "+" else -distance))
    if (named := _NAMED.fullmatch(text)) is not None and (local := _local(named[1], day_first=day_first)):
        of_name = _zone(named[2], local, zone)
        return None if of_name is None else local.replace(tzinfo=of_name)
    local = _local(text, day_first=day_first)
    return None if local is None else local.replace(tzinfo=zone)


def unread(text: str, *, day_first: bool) -> str:
    """What would help to read a text as a time, for a message; empty where nothing would."""
    if not day_first and ends_with_year(text):
        return "; days before months are read with --day-first"
    named = _NAMED.fullmatch(text)
    return f"; what {named[2]} means is known with --time-zone" if named and _local(named[1], day_first=False) else ""


def ends_with_year(text: str) -> bool:
    """Whether a text is a date of numbers with the year at its end, whose day and month have no order of their own."""
    return _ENDS_WITH_YEAR.match(text) is not None


def days_first(texts: Iterable[str]) -> str | None:
    """A time that shows that a column has days before months: 13/03/2024, or 01.03.2024; `None` without one.

    Where another has its month first, such as 03/13/2024, the column has no such order.
    """
    first = None
    for text in texts:
        found = _ENDS_WITH_YEAR.match(text)
        if found is None:
            continue
        if int(found[3]) > 12 >= int(found[1]):
            return None
        if first is None and (found[2] == "." or int(found[1]) > 12):
            first = text
    return first


def _local(text: str, *, day_first: bool) -> datetime.datetime | None:
    """A date, with or without a clock."""
    text = text.strip()
    if (clocked := _CLOCK.fullmatch(text)) is not None:
        date, clock = _date(clocked[1], day_first=day_first), _clock(clocked[2])
        return None if date is None or clock is None else datetime.datetime.combine(date, clock)
    return _date(text, day_first=day_first)


@lru_cache(maxsize=_KEPT)
def _date(text: str, *, day_first: bool) -> datetime.datetime | None:
    found = _SLASHED.fullmatch(text)
    if found is None:
        return _by_form(text, _DATES)
    first, mark, second, third = found.groups()
    if len(first) == 4:
        year, month, day = int(first), int(second), int(third)
    elif len(third) == 4 or (len(third) == 2 and mark != "-"):
        year = int(third) + (0 if len(third) == 4 else 2000 if int(third) < _CENTURY else 1900)
        day, month = (int(first), int(second)) if day_first else (int(second), int(first))
        if mark == "." and not day_first:
            return None
    else:
        return None
    try:
        return datetime.datetime(year, month, day)
    except ValueError:
        return None


@lru_cache(maxsize=_KEPT)
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


def _zone(name: str, local: datetime.datetime, given: datetime.tzinfo) -> datetime.tzinfo | None:
    """The zone of a name: the given one where it goes by that name then, else one that has a single meaning."""
    if local.replace(tzinfo=given).tzname() == name:
        return given
    if name in _HOURS:
        return datetime.timezone(datetime.timedelta(hours=_HOURS[name]))
    return _region(name) if "/" in name else None


@lru_cache(maxsize=64)
def _region(name: str) -> datetime.tzinfo | None:
    try:
        return ZoneInfo(name)
    except (ValueError, KeyError, OSError):
        return None
