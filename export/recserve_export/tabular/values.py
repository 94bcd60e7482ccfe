"""One value of a source -> one typed value: what text, JSON, Parquet and databases call numbers, flags and lists."""

from __future__ import annotations

import ast
import csv
import datetime
import math
import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, Final, Literal

import msgspec

from recserve_client.contract import shown
from recserve_export.tabular.rows import Reason, RowError
from recserve_server_ext.catalogue.item_checks import place_of

ValueType = Literal["str", "int", "float", "bool", "list", "place"]

_INT: Final = re.compile(r"[+-]?[0-9]{1,19}")
_FLOAT: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
#: Between groups of three digits, beside a point or a comma: spaces of several widths, and apostrophes.
_BETWEEN: Final = " \u00a0\u2009\u202f'\u2019"
#: 1,999 and 1,234,567.5 and 1 999.5; the same with a decimal comma.
_GROUPED: Final = re.compile(rf"[+-]?[0-9]{{1,3}}(?P<at>[,{_BETWEEN}])[0-9]{{3}}((?P=at)[0-9]{{3}})*(\.[0-9]*)?")
_COMMA: Final = re.compile(rf"[+-]?([0-9]+|[0-9]{{1,3}}(?P<at>[.{_BETWEEN}])[0-9]{{3}}((?P=at)[0-9]{{3}})*)(,[0-9]+)?")
#: Signs, codes and short names of currencies, before or after an amount.
_CURRENCY: Final = (
    r"(?:[A-Za-z]{0,3}[$\\\u00a2-\u00a5\u058f\u060b\u09f2\u09f3\u0e3f\u17db\u20a0-\u20bf\uffe0\uffe1\uffe5\uffe6]"
    r"|USD|EUR|GBP|JPY|CNY|RMB|INR|KRW|CHF|CAD|AUD|NZD|SEK|NOK|DKK|PLN|CZK|HUF|RUB|TRY|BRL|MXN|ZAR|SGD|HKD|TWD|ILS|THB"
    r"|Rs\.?|Fr\.?|kr\.?|z\u0142|K\u010d|Ft|lei|\u5186|\u5143|\uc6d0|\u0440\u0443\u0431\.?)"
)
_MONEY: Final = re.compile(
    rf"(?P<sign>[+-]?)(?:(?P<before>{_CURRENCY})[{_BETWEEN}]?)?(?P<amount>[+-]?[0-9.][0-9.,{_BETWEEN}]*?)"
    rf"(?:[.,][-\u2013]+)?(?:[{_BETWEEN}]?(?P<after>{_CURRENCY}))?"
)
_GROUPS: Final = str.maketrans("", "", f",.{_BETWEEN}")
_BOOLS: Final = {
    **dict.fromkeys(("true", "t", "yes", "y", "1", "1.0", "on"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0", "0.0", "off"), False),
}
#: Characters of no width, and white space that may stand between them.
_EDGES: Final = "\u200b\u200c\u200d\u2060\ufeff \t\r\n\u00a0"
#: What stands for a missing value wherever a number, a flag, a place or a list is expected.
NULLS: Final = frozenset(
    ("\\N", "nan", "NaN", "NAN", "NA", "N/A", "n/a", "None", "none", "null", "NULL", "Null", "<NA>", "NaT", "-", "[]")
)
#: And where a list is expected, as MovieLens has it.
NULLS_OF_LISTS: Final = NULLS | {"(no genres listed)"}
#: What stands for a missing value in a text, a string or an id too, unless the caller names others.
TEXT_NULLS: Final = frozenset(("\\N",))
#: And in an id: what programs write in place of a missing one.
ID_NULLS: Final = TEXT_NULLS | {"nan", "NaN", "NULL", "null", "None", "<NA>", "NaT", "undefined"}
#: Ids that a spreadsheet has shortened, so that several may have become one.
_SHORTENED: Final = re.compile(r"[0-9](?:[.,][0-9]+)?E\+[0-9]{2}")
#: Around lists that come as one string.
_BRACKETS: Final = ("[]", "()", "{}")
#: Formats in which people put spaces around values.
TRIMMED: Final = ("csv", "inter", "xlsx")
#: Separators of lists that come as one string, the likeliest first.
SEPARATORS: Final = ("|", ";", ",")
_EXPECTED: Final[dict[ValueType, str]] = {
    "str": "a string",
    "int": "an integer of 64 bits",
    "float": "a finite number",
    "bool": "true or false",
    "list": "a list of strings",
    "place": "a place, latitude and longitude in degrees",
}


def wrong(name: str, value: object, expected: str) -> RowError:
    """The refusal of a value of another type."""
    return RowError(Reason.WRONG_TYPE, f"{name} is {shown(value)}: expected {expected}")


def number_in(text: str, decimal: str = "") -> int | float | None:
    """The number that a text stands for: `1977`, `1977.0`, `1,999`, `2e3`, `3,5`; `None` for anything else.

    Args:
        text: The text.
        decimal: `,` where the column has decimal commas, so that 1,999 is no thousand and 1.999 is one.
    """
    if _INT.fullmatch(text):
        return int(text)
    if decimal != "," and _GROUPED.fullmatch(text):
        whole, point, rest = text.partition(".")
        text = whole.translate(_GROUPS) + point + rest
    elif (decimal == "," or not _FLOAT.fullmatch(text)) and _COMMA.fullmatch(text):
        whole, _, rest = text.partition(",")
        text = f"{whole.translate(_GROUPS)}.{rest}"
    elif not _FLOAT.fullmatch(text):
        return None
    found = float(text)
    return found if math.isfinite(found) else None


def amount_in(text: str, decimal: str = "") -> int | float | None:
    """The number that a text stands for, which may be an amount of money: `$5.50`, `1.299,50 \u20ac`, `CHF 12.-`."""
    found = number_in(text, decimal)
    return found if found is not None else number_in(_without_currency(text), decimal)


def currencies_of(values: Iterable[object]) -> list[str]:
    """The currencies of a column's values, as they are written."""
    found = (_MONEY.fullmatch(value.strip()) for value in values if isinstance(value, str))
    names = (one["before"] or one["after"] for one in found if one is not None)
    return sorted({name for name in names if name})


def _without_currency(text: str) -> str:
    found = _MONEY.fullmatch(text)
    return text if found is None else found["sign"] + found["amount"]


def guess_decimal(values: Iterable[object]) -> str:
    """`,` where numbers that come as text have decimal commas: some can only be read so, and none has a point."""
    texts = [_without_currency(text.strip()) for text in values if isinstance(text, str)]
    numbers = [text for text in texts if not _INT.fullmatch(text) and not _GROUPED.fullmatch(text)]
    commas = [text for text in numbers if "," in text and _COMMA.fullmatch(text)]
    points = [text for text in numbers if "," not in text and _FLOAT.fullmatch(text) and not _COMMA.fullmatch(text)]
    return "," if commas and not points else ""


def trimmed(text: str) -> str:
    """The text without white space and characters of no width at its ends."""
    text = text.strip()
    return text if text.isascii() else text.strip(_EDGES)


def typed(name: str, value: Any, type_: ValueType, mark: str = "") -> Any:
    """A value as the type that the mapping gives.

    Args:
        name: Its column.
        value: What the source has.
        type_: The type.
        mark: Separator of a list that comes as a text, or the decimal mark of a number.

    Raises:
        RowError: It is none.
    """
    found = _CONVERTERS[type_](value, mark)
    if found is None:
        raise wrong(name, value, _EXPECTED[type_])
    return valid(name, found) if isinstance(found, str) else found


def valid(name: str, text: str) -> str:
    """The text itself, if both databases can hold it: without NUL, and UTF-8 can carry it.

    Raises:
        RowError: It holds NUL, or lone surrogates, as which undecodable bytes arrive here.
    """
    if "\0" in text:
        raise RowError(Reason.INVALID_TEXT, f"{name} holds NUL: {shown(text)}")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise RowError(Reason.INVALID_TEXT, f"{name} is not valid UTF-8: {shown(text)}") from None
    return text


def id_of(name: str, value: Any, *, trims: bool = False) -> str | None:
    """An id as a string: integers, and floats and decimals that are whole, without a point; `None` where it is missing.

    Args:
        name: Its column.
        value: What the source has.
        trims: Whether white space around it is no part of it.

    Raises:
        RowError: It is of another type.
    """
    if type(value) is str:
        return (trimmed(value) if trims else value) or None
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    whole = _whole(value)
    if whole is not None:
        return str(whole)
    if isinstance(value, str):
        return value or None
    if isinstance(value, bytes):
        return _decoded(value)
    if type(value).__name__ == "UUID":
        return str(value)
    raise wrong(name, value, "a string or an integer")


def shortened_id(values: Iterable[object]) -> str | None:
    """An id that a spreadsheet has shortened, such as 9.78014E+12; `None` where there is none."""
    return next((one for one in values if isinstance(one, str) and _SHORTENED.fullmatch(one.strip())), None)


def text_of(name: str, value: Any) -> str:
    """A text: a string, a number as it is written, or a list of them, joined by commas.

    Raises:
        RowError: It is of another type.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return ", ".join(part.strip() for part in value if part.strip())
    found = None if isinstance(value, list) else _str(value, "")
    if found is None:
        raise wrong(name, value, "text")
    return found


def list_in(text: str, separator: str = "") -> list[str]:
    """The parts of a list that comes as one string: JSON, Python's `repr`, PostgreSQL's, or split by a separator."""
    if text[:1] + text[-1:] in _BRACKETS:
        found = literal(text)
        if found == {}:
            return []
        if isinstance(found, list | tuple | set) and all(isinstance(part, str | int) for part in found):
            return [str(part) for part in (sorted(found, key=str) if isinstance(found, set) else found)]
        if text.startswith("{") and found is None:
            return next(csv.reader([text[1:-1]], escapechar="\\", doublequote=False), [])
    return text.split(separator or ";")


def guess_separator(values: Iterable[object]) -> str:
    """The separator of lists that come as strings: the one that most of them have; empty where none has any."""
    texts = [text for text in values if isinstance(text, str) and text[:1] + text[-1:] not in _BRACKETS]
    counts = {one: sum(one in text for text in texts) for one in SEPARATORS}
    best = max(counts, key=lambda one: counts[one])
    return best if counts[best] else ""


def literal(text: str) -> Any:
    """The value of a text of JSON, or of a Python literal; `None` where it is neither."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        pass
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _whole(value: Any) -> int | None:
    """The integer that a number is."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, Decimal) and value.is_finite():
        return int(value) if value == value.to_integral_value() else None
    return None


def _str(value: Any, _: str) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, bytes):
        return _decoded(value)
    if isinstance(value, int | float | Decimal):
        whole = _whole(value)
        return str(value) if whole is None else str(whole)
    return None


def _int(value: Any, decimal: str) -> int | None:
    if isinstance(value, str):
        value = amount_in(value, decimal)
    whole = _whole(value)
    return whole if whole is not None and -(2**63) <= whole < 2**63 else None


def _float(value: Any, decimal: str) -> float | None:
    if isinstance(value, str):
        value = amount_in(value, decimal)
    if not isinstance(value, int | float | Decimal) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (OverflowError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _bool(value: Any, _: str) -> bool | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _BOOLS.get(value.lower())
    return bool(value) if isinstance(value, int | float | Decimal) and value in (0, 1) else None


def _list(value: Any, separator: str) -> list[str] | None:
    if isinstance(value, str):
        value = list_in(value, separator)
    if not isinstance(value, list):
        return None
    parts = [part if isinstance(part, str) else _str(part, "") for part in value if part is not None]
    if None in parts:
        return None
    return [valid("a part of the list", part.strip()) for part in parts if part and part.strip()]


def _place(value: Any, _: str) -> list[float] | None:
    if isinstance(value, str):
        parts = [part.strip() for part in value.strip("[]()").split(",")]
        value = [float(part) for part in parts] if all(map(_FLOAT.fullmatch, parts)) else None
    if isinstance(value, dict):
        value = [value.get("lat", value.get("latitude")), value.get("lon", value.get("longitude", value.get("lng")))]
    if isinstance(value, list):
        value = [float(part) if isinstance(part, Decimal) else part for part in value]
    return place_of(value)


def _decoded(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


_CONVERTERS: Final[dict[ValueType, Callable[[Any, str], Any]]] = {
    "str": _str, "int": _int, "float": _float, "bool": _bool, "list": _list, "place": _place
}  # fmt: skip
