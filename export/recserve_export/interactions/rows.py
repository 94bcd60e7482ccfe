"""One row of a source -> one interaction, or the reason why not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from recserve_client.contract import shown
from recserve_export.interactions.mapping import ROW, InteractionMapping
from recserve_export.interactions.scale import Scale
from recserve_export.tabular.rows import Reason, RowError
from recserve_export.tabular.values import NULLS, TEXT_NULLS, id_of, number_in, wrong
from recserve_server_ext.common.errors import UserIdError
from recserve_server_ext.interactions.interaction import (
    MAX_ITEM_LENGTH,
    MAX_NUMBER,
    Content,
    Interaction,
    Refused,
    RefusedError,
    Scalar,
    checked,
    content_hash,
    is_type,
)
from recserve_server_ext.interactions.pseudonyms import Pseudonyms
from recserve_server_ext.interactions.writes import BulkRow, Row, bulk_row

_NUMBERS: Final = ("value", "duration_s", "price", "quantity")
#: Most entries of each cache, so that memory does not grow with the file.
_CACHED: Final = 100_000


class InteractionConverter:
    """Makes interactions from rows by a mapping.

    Attributes:
        types: Types that were stored under another name than the source's, by that name.
    """

    def __init__(
        self,
        mapping: InteractionMapping,
        pseudonyms: Pseudonyms | None,
        *,
        scale: Scale | None = None,
        latest_s: float = math.inf,
    ) -> None:
        """Prepare a mapping.

        Args:
            mapping: A validated mapping.
            pseudonyms: Turns user ids into pseudonyms; `None` where the column holds pseudonyms.
            scale: Scale of the ratings; `None` takes values as they are.
            latest_s: Newest accepted timestamp, in seconds since 1970.
        """
        self.types: dict[str, str] = {}
        self._mapping = mapping
        self._pseudonyms = pseudonyms
        self._scale = scale or Scale()
        self._latest_s = latest_s
        self._times = mapping.times
        self._fixed_s = None if mapping.time in (None, ROW) else self._times.seconds(mapping.time)
        self._nulls = NULLS if mapping.nulls is None else frozenset(mapping.nulls)
        self._text_nulls = TEXT_NULLS if mapping.nulls is None else self._nulls
        self._users: dict[Any, str] = {}
        self._numbers: dict[str, float] = {}
        self._known: dict[Any, str] = {}
        self._is_plain = self._can_be_plain()

    def row(self, number: int, values: Mapping[str, Any]) -> BulkRow:
        """The checked interaction of a row, as the columns of the store.

        Raises:
            RowError: A value has the wrong type.
            RefusedError: It cannot be stored.
        """
        if self._is_plain and (found := self._plain(number, values)) is not None:
            return found
        interaction = self(values, number)
        return bulk_row(Row(interaction.user, checked(interaction, self._latest_s)))

    def __call__(self, values: Mapping[str, Any], number: int = 1) -> Interaction:
        """The interaction of a row given as column -> value; a missing or empty value leaves its field out.

        What the store checks as well is left to it.

        Raises:
            RowError: A value has the wrong type.
            RefusedError: There is no usable user or timestamp.
        """
        mapping = self._mapping
        fields: dict[str, Any] = {}
        for name, column in mapping.fields.items():
            fields[name] = self._number(column, values) if name in _NUMBERS else self._text(column, values)
        user = self._user(values)
        type_ = self._type(values)
        fields["value"], type_ = self._scale.read(fields.get("value"), type_)
        return Interaction(
            user=user,
            type=type_,
            timestamp=self._seconds(number, values),
            item=None if mapping.item is None else self._text(mapping.item, values),
            text=None if mapping.text is None else self._text(mapping.text, values),
            context=self._context(values),
            **fields,
        )

    def _can_be_plain(self) -> bool:
        mapping = self._mapping
        is_bare = mapping.text is None and not mapping.context and mapping.item is not None
        has_type = mapping.type is None or is_type(mapping.type)
        return is_bare and has_type and self._pseudonyms is not None and set(mapping.fields) <= {"value"}

    def _plain(self, number: int, values: Mapping[str, Any]) -> BulkRow | None:
        """The row of an interaction that is plainly right; `None` leaves it to the checks one by one."""
        mapping = self._mapping
        item = values.get(mapping.item or "")
        if type(item) is int:
            item = str(item)
        if type(item) is not str or not (item.isascii() and item.isprintable()) or item in self._text_nulls:
            return None
        if not 0 < len(item) <= MAX_ITEM_LENGTH:
            return None
        name = values.get(mapping.user)
        user = self._users.get(name) if type(name) in (str, int) else None
        user = user or self._user(values)
        type_ = mapping.type if mapping.type_column is None else self._known.get(values.get(mapping.type_column))
        raw = values.get(mapping.timestamp) if mapping.time is None else None
        if type(raw) is str and raw.isdecimal() and raw.isascii():
            raw = int(raw)
        time_s = self._times.seconds(raw) if type(raw) is int else self._seconds(number, values)
        if type_ is None or time_s is None or not 0 <= time_s <= self._latest_s:
            return None
        value = None
        if mapping.fields:
            given = values.get(mapping.fields["value"])
            value = self._numbers.get(given) if type(given) is str else given
            if type(value) is not float or not -MAX_NUMBER <= value <= MAX_NUMBER:
                return None
            value, type_ = self._scale.read(value, type_)
            value = None if value is None else value + 0.0
        time_us = round(time_s * 1_000_000)
        event_id = content_hash(Content(item=item, time_us=time_us, type=type_, value=value))
        return BulkRow(user, event_id, time_us, type_, item, None, value, None, None, None, None, None, None)

    def _user(self, values: Mapping[str, Any]) -> str:
        column = self._mapping.user
        try:
            user = id_of(column, values.get(column))
        except RowError as error:
            raise RefusedError(Refused.USER, f"no user id in column {column}") from error
        if user is None or user in self._text_nulls:
            raise RefusedError(Refused.USER, f"no user id in column {column}")
        if self._pseudonyms is None:
            return user
        try:
            found = self._pseudonyms.of(user)
        except UserIdError as error:
            raise RefusedError(Refused.USER, str(error)) from None
        if len(self._users) >= _CACHED:
            self._users.clear()
        if type(values[column]) in (str, int):
            self._users[values[column]] = found
        return found

    def _type(self, values: Mapping[str, Any]) -> str:
        mapping = self._mapping
        if mapping.type_column is None:
            return mapping.type or ""
        given = self._text(mapping.type_column, values) or ""
        found = mapping.types.get(given) or mapping.types.get(given.lower())
        if found is None:
            # PURCHASE and "add to cart" are words that the store does not take as they are.
            found = "_".join(given.replace("-", " ").lower().split())
        if len(self.types) < _CACHED:
            self.types[given] = found
            if is_type(found):
                self._known[given] = found
        return found

    def _seconds(self, number: int, values: Mapping[str, Any]) -> float:
        if self._mapping.time is not None:
            return float(number) if self._fixed_s is None else self._fixed_s
        column = self._mapping.timestamp
        value = values.get(column)
        try:
            found = self._times.seconds(value)
        except (OverflowError, ValueError):
            raise RefusedError(Refused.FUTURE, f"{column} is {shown(value)}") from None
        if found is None:
            hint = "" if self._mapping.day_first else "; days before months are read with --day-first"
            hint = hint if isinstance(value, str) and "/" in value else ""
            raise RefusedError(
                Refused.TIMESTAMP, f"{column} is {shown(value)}: expected a number or a date and time{hint}"
            )
        if not 0 <= found <= self._latest_s and found == found:
            # The file's own value: what it was read as would not be found in it.
            reason = Refused.TIMESTAMP if found < 0 else Refused.FUTURE
            raise RefusedError(reason, f"{column} is {shown(value)}: {'before 1970' if found < 0 else 'in the future'}")
        return found

    def _number(self, column: str, values: Mapping[str, Any]) -> Any:
        value = values.get(column)
        if isinstance(value, str):
            text = value.strip()
            if not text or text in self._nulls:
                return None
            found = number_in(text)
            if found is None:
                raise wrong(column, value, "a number")
            if len(self._numbers) < _CACHED:
                self._numbers[value] = float(found)
            return found
        if isinstance(value, float) and math.isnan(value):
            return None
        return float(value) if isinstance(value, Decimal) else value

    def _context(self, values: Mapping[str, Any]) -> dict[str, Scalar]:
        found = {name: values.get(column) for name, column in self._mapping.context.items()}
        return {name: _scalar(value) for name, value in found.items() if value is not None and value != ""}

    def _text(self, column: str, values: Mapping[str, Any]) -> str | None:
        try:
            found = id_of(column, values.get(column))
        except RowError:
            raise RowError(
                Reason.WRONG_TYPE, f"{column} is {shown(values.get(column))}: expected a string or an integer"
            ) from None
        return None if found is None or found in self._text_nulls else found


def _scalar(value: Any) -> Any:
    """A value of the context: dates as ISO 8601, decimals as numbers."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value
