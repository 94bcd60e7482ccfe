"""One row of a source -> one item, or the reason why not."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

import msgspec

from recserve_client.contract import shown
from recserve_export.catalogue.mapping import AttributeField, AttributeType, FieldMapping, TextField
from recserve_server_ext.catalogue.item_checks import place_of
from recserve_server_ext.catalogue.store import StoredItem

#: Most characters of an item id; the contract refuses longer ones in requests.
MAX_ID_LENGTH: Final = 512

_INT: Final = re.compile(r"[+-]?[0-9]{1,19}")
_FLOAT: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_BOOLS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class Reason(StrEnum):
    """Why a row is refused."""

    MALFORMED = "malformed"
    INVALID_TEXT = "invalid_text"
    MISSING_ID = "missing_id"
    ID_TOO_LONG = "id_too_long"
    DUPLICATE_ID = "duplicate_id"
    WRONG_TYPE = "wrong_type"
    EMPTY_TEXT = "empty_text"


class Refusal(msgspec.Struct, frozen=True):
    """A row that was refused.

    Attributes:
        row: From 1: the line of a JSON Lines file, the record after the header of a CSV file, the row of a table.
        id: Item id where the row has a usable one.
        reason: One of `Reason`.
        detail: Names the field and the value.
    """

    row: int
    id: str | None
    reason: Reason
    detail: str


class RowError(Exception):
    """A row that cannot become an item.

    Attributes:
        reason: Which of the typed reasons.
        detail: Names the field and the value.
        item_id: Item id where the row has a usable one.
    """

    def __init__(self, reason: Reason, detail: str, item_id: str | None = None) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail
        self.item_id = item_id


class RowConverter:
    """Makes items from rows by a field mapping."""

    def __init__(self, mapping: FieldMapping, *, is_textual: bool) -> None:
        """Prepare a mapping.

        Args:
            mapping: A validated mapping.
            is_textual: Whether every value of the source is text (CSV), so that numbers have to be parsed.
        """
        self._mapping = mapping
        self._is_textual = is_textual

    def __call__(self, values: Mapping[str, Any]) -> StoredItem:
        """The item of a row given as column -> value; a missing or empty value leaves its field out.

        Raises:
            RowError: With the reason.
        """
        item_id = self._id(values)
        try:
            texts = self._texts(values)
            attributes = self._attributes(values)
            available = self._available(values)
            if not texts:
                fields = ", ".join(self._mapping.texts)
                raise RowError(Reason.EMPTY_TEXT, f"no text in any of the text fields: {fields}")
        except RowError as error:
            error.item_id = item_id
            raise
        return StoredItem(item_id, texts, attributes, available)

    def _id(self, values: Mapping[str, Any]) -> str:
        column = self._mapping.id
        value = values.get(column)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(_int(column, value))
        if value is None or value == "" or (isinstance(value, str) and value.isspace()):
            raise RowError(Reason.MISSING_ID, f"no id in column {column}")
        if not isinstance(value, str):
            raise _wrong(column, value, "a string or an integer")
        if len(value) > MAX_ID_LENGTH:
            raise RowError(
                Reason.ID_TOO_LONG, f"{column} has {len(value)} characters, at most {MAX_ID_LENGTH}: {shown(value)}"
            )
        return _valid(column, value)

    def _texts(self, values: Mapping[str, Any]) -> dict[str, str]:
        fields = ((name, _text(name, field, values)) for name, field in self._mapping.texts.items())
        return {name: text for name, text in fields if text}

    def _attributes(self, values: Mapping[str, Any]) -> dict[str, Any]:
        attributes = {}
        for name, field in self._mapping.attributes.items():
            value = values.get(field.column)
            value = value.strip() if isinstance(value, str) else value
            if value is not None and value != "" and value != []:
                attributes[name] = self._attribute(name, field, value)
        return attributes

    def _attribute(self, name: str, field: AttributeField, value: Any) -> Any:
        if field.type == "list":
            return _list(name, value, field.separator)
        if self._is_textual and field.type != "str":
            value = parsed(name, value, field.type)
        return _CHECKS[field.type](name, value)

    def _available(self, values: Mapping[str, Any]) -> bool:
        column = self._mapping.available
        value = None if column is None else values.get(column)
        if column is None or value is None or value == "":
            return True
        return _bool(column, parsed(column, value.strip(), "bool") if self._is_textual else value)


def _wrong(name: str, value: object, expected: str) -> RowError:
    return RowError(Reason.WRONG_TYPE, f"{name} is {shown(value)}: expected {expected}")


def _valid(name: str, text: str) -> str:
    """The text itself, if UTF-8 can carry it: undecodable bytes and lone surrogates arrive here as surrogates."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise RowError(Reason.INVALID_TEXT, f"{name} is not valid UTF-8: {shown(text)}") from None
    return text


def _text(name: str, field: TextField, values: Mapping[str, Any]) -> str:
    value = values.get(field.column)
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = ", ".join(part.strip() for part in value if part.strip())
    if not isinstance(value, str):
        raise _wrong(name, value, "text")
    return _valid(name, value.strip())


def parsed(name: str, text: str, type_: AttributeType) -> Any:
    """The value that a string of a textual source stands for."""
    if type_ == "int" and _INT.fullmatch(text):
        return int(text)
    if type_ == "float" and _FLOAT.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    if type_ == "bool" and text.lower() in _BOOLS:
        return _BOOLS[text.lower()]
    if type_ == "place" and (place := _place_in(text)) is not None:
        return place
    raise _wrong(name, text, _EXPECTED[type_])


def _place_in(text: str) -> list[float] | None:
    parts = [part.strip() for part in text.split(",")]
    return place_of([float(part) for part in parts]) if all(map(_FLOAT.fullmatch, parts)) else None


def _str(name: str, value: Any) -> str:
    if isinstance(value, datetime.date):
        return value.isoformat()
    if not isinstance(value, str):
        raise _wrong(name, value, _EXPECTED["str"])
    return _valid(name, value)


def _int(name: str, value: Any) -> int:
    # Tables that know no missing integers (pandas, SQLite's REAL) write 1977 as 1977.0.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise _wrong(name, value, _EXPECTED["int"])
    return value


def _float(name: str, value: Any) -> float:
    if not isinstance(value, (int, float, Decimal)) or isinstance(value, bool):
        raise _wrong(name, value, _EXPECTED["float"])
    try:
        number = float(value)
    except (OverflowError, ValueError):
        number = math.inf
    if not math.isfinite(number):
        raise _wrong(name, value, _EXPECTED["float"])
    return number


def _bool(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, value, _EXPECTED["bool"])
    return value


def _list(name: str, value: Any, separator: str) -> list[str]:
    if isinstance(value, str):
        value = value.split(separator)
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise _wrong(name, value, _EXPECTED["list"])
    return [_valid(name, part.strip()) for part in value if part.strip()]


def _place(name: str, value: Any) -> list[float]:
    if (place := place_of(value)) is None:
        raise _wrong(name, value, _EXPECTED["place"])
    return place


_EXPECTED: Final[dict[AttributeType, str]] = {
    "str": "a string",
    "int": "an integer of 64 bits",
    "float": "a finite number",
    "bool": "true or false",
    "list": "a list of strings",
    "place": "a place, latitude and longitude in degrees",
}
_CHECKS: Final[dict[str, Callable[[str, Any], Any]]] = {
    "str": _str, "int": _int, "float": _float, "bool": _bool, "place": _place
}  # fmt: skip
