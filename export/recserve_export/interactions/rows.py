"""One row of a source -> one interaction, or the reason why not."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, Final

from recserve_client.contract import shown
from recserve_export.catalogue.rows import Reason, RowError, parsed
from recserve_export.interactions.mapping import UNITS_PER_SECOND, InteractionMapping
from recserve_server_ext.common.errors import UserIdError
from recserve_server_ext.interactions.interaction import Interaction, Refused, RefusedError, Scalar
from recserve_server_ext.interactions.pseudonyms import Pseudonyms

_NUMBERS: Final = ("value", "duration_s", "price", "quantity")


class InteractionConverter:
    """Makes interactions from rows by a mapping."""

    def __init__(self, mapping: InteractionMapping, pseudonyms: Pseudonyms | None, *, is_textual: bool) -> None:
        """Prepare a mapping.

        Args:
            mapping: A validated mapping.
            pseudonyms: Turns user ids into pseudonyms; `None` where the column holds pseudonyms.
            is_textual: Whether every value of the source is text (CSV), so that numbers have to be parsed.
        """
        self._mapping = mapping
        self._pseudonyms = pseudonyms
        self._is_textual = is_textual

    def __call__(self, values: Mapping[str, Any]) -> Interaction:
        """The interaction of a row given as column -> value; a missing or empty value leaves its field out.

        What the store checks as well is left to it.

        Raises:
            RowError: A value has the wrong type.
            RefusedError: There is no usable user or timestamp.
        """
        mapping = self._mapping
        fields: dict[str, Any] = {}
        for name, column in mapping.fields.items():
            fields[name] = self._number(column, values) if name in _NUMBERS else _text(column, values)
        return Interaction(
            user=self._user(values),
            type=mapping.type if mapping.type_column is None else _text(mapping.type_column, values) or "",  # type: ignore[arg-type]  # one of them is given
            timestamp=self._seconds(values),
            item=None if mapping.item is None else _text(mapping.item, values),
            text=None if mapping.text is None else _text(mapping.text, values),
            context=self._context(values),
            **fields,
        )

    def _user(self, values: Mapping[str, Any]) -> str:
        column = self._mapping.user
        user = values.get(column)
        if isinstance(user, int) and not isinstance(user, bool):
            user = str(user)
        if not isinstance(user, str) or not user:
            raise RefusedError(Refused.USER, f"no user id in column {column}")
        if self._pseudonyms is None:
            return user
        try:
            return self._pseudonyms.of(user)
        except UserIdError as error:
            raise RefusedError(Refused.USER, str(error)) from None

    def _seconds(self, values: Mapping[str, Any]) -> float:
        column = self._mapping.timestamp
        value = values.get(column)
        if isinstance(value, str):
            value = self._moment(column, value.strip())
        if isinstance(value, datetime.datetime):
            return (value if value.tzinfo else value.replace(tzinfo=datetime.UTC)).timestamp()
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise RefusedError(Refused.TIMESTAMP, f"{column} is {shown(value)}: expected a number or a date and time")
        try:
            return value / UNITS_PER_SECOND[self._mapping.time_unit]
        except OverflowError:
            raise RefusedError(Refused.FUTURE, f"{column} is {shown(value)}") from None

    def _moment(self, column: str, text: str) -> float | datetime.datetime:
        try:
            return datetime.datetime.fromisoformat(text)
        except ValueError:
            if not self._is_textual:
                raise RefusedError(Refused.TIMESTAMP, f"{column} is {shown(text)}: not in ISO 8601") from None
        number: float = parsed(column, text, "float")
        return number

    def _number(self, column: str, values: Mapping[str, Any]) -> Any:
        value = values.get(column)
        if self._is_textual and isinstance(value, str):
            return parsed(column, value.strip(), "float") if value.strip() else None
        return value

    def _context(self, values: Mapping[str, Any]) -> dict[str, Scalar]:
        found = {name: values.get(column) for name, column in self._mapping.context.items()}
        return {name: value for name, value in found.items() if value is not None and value != ""}


def _text(column: str, values: Mapping[str, Any]) -> str | None:
    value = values.get(column)
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise RowError(Reason.WRONG_TYPE, f"{column} is {shown(value)}: expected a string or an integer")
    return value
