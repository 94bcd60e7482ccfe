"""One value of a source -> one typed value: what text, JSON, Parquet and databases call numbers, flags and lists."""

from __future__ import annotations

import ast
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
#: 1,999 and 1,234,567.5: commas between groups of three digits.
_GROUPED: Final = re.compile(r"[+-]?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]*)?")
_BOOLS: Final = {
    **dict.fromkeys(("true", "t", "yes", "y", "1", "1.0", "on"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0", "0.0", "off"), False),
}
#: What stands for a missing value wherever a number, a flag, a place or a list is expected.
NULLS: Final = frozenset(
    ("\\N", "nan", "NaN", "NAN", "NA", "N/A", "n/a", "None", "none", "null", "NULL", "Null", "<NA>", "NaT", "-", "[]")
)
#: And where a list is expected, as MovieLens has it.
NULLS_OF_LISTS: Final = NULLS | {"(no genres listed)"}
#: What stands for a missing value in a text, a string or an id too, unless the caller names others.
TEXT_NULLS: Final = frozenset(("\\N",))
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


def number_in(text: str) -> int | float | None:
    """The number that a text stands for: `1977`, `1977.0`, `1,999`, `2e3`; `None` for anything else."""
    if _INT.fullmatch(text):
        return int(text)
    if _GROUPED.fullmatch(text):
        text = text.replace(",", "")
    elif not _FLOAT.fullmatch(text):
        return None
    found = float(text)
    return found if math.isfinite(found) else None


def typed(name: str, value: Any, type_: ValueType, separator: str = "") -> Any:
    """A value as the type that the mapping gives.

    Raises:
        RowError: It is none.
    """
    found = _CONVERTERS[type_](value, separator)
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


def id_of(name: str, value: Any) -> str | None:
    """An id as a string: integers, and floats and decimals that are whole, without a point; `None` where it is missing.

    Raises:
        RowError: It is of another type.
    """
    if type(value) is str:
        return value or None
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
    """The parts of a list that comes as one string: JSON, Python's `repr`, or split by a separator."""
    if text.startswith("[") and text.endswith("]"):
        found = literal(text)
        if isinstance(found, list) and all(isinstance(part, (str, int)) for part in found):
            return [str(part) for part in found]
    return text.split(separator or ";")


def guess_separator(values: Iterable[object]) -> str:
    """The separator of lists that come as strings: the one that most of them have; empty where none has any."""
    texts = [text for text in values if isinstance(text, str) and not text.startswith("[")]
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


def _int(value: Any, _: str) -> int | None:
    if isinstance(value, str):
        value = number_in(value)
    whole = _whole(value)
    return whole if whole is not None and -(2**63) <= whole < 2**63 else None


def _float(value: Any, _: str) -> float | None:
    if isinstance(value, str):
        value = number_in(value)
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
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        return None
    return [valid("a part of the list", part.strip()) for part in value if part.strip()]


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
