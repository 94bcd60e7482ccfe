"""One row of a source -> one interaction, or the reason why not."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import numpy as np

from recserve_client.contract import shown
from recserve_export.interactions.mapping import ROW, InteractionMapping
from recserve_export.interactions.plain_rows import PlainRows, What, plain_numbers
from recserve_export.interactions.scale import Scale, rating_in
from recserve_export.tabular.rows import Reason, RowError
from recserve_export.tabular.values import ID_NULLS, NULLS, TEXT_NULLS, amount_in, id_of, wrong
from recserve_server_ext.common.arrays import Floats
from recserve_server_ext.common.errors import UserIdError
from recserve_server_ext.interactions.interaction import (
    MEASURES,
    Interaction,
    Refused,
    RefusedError,
    Scalar,
    checked,
)
from recserve_server_ext.interactions.pseudonyms import Pseudonyms, is_pseudonym
from recserve_server_ext.interactions.writes import BulkRow, Row, bulk_row

Numbered = tuple[int, Any]
#: Most names of types that are kept.
_KEPT: Final = 1000


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
        trims: bool = False,
        commas: Collection[str] = (),
    ) -> None:
        """Prepare a mapping.

        Args:
            mapping: A validated mapping.
            pseudonyms: Turns user ids into pseudonyms; `None` where the column holds pseudonyms.
            scale: Scale of the ratings; `None` takes values as they are.
            latest_s: Newest accepted timestamp, in seconds since 1970.
            trims: Whether white space around an id is no part of it.
            commas: Columns of numbers with a decimal comma.
        """
        self._trims = trims
        self._commas = commas
        self.types: dict[str, str] = {}
        self._mapping = mapping
        self._pseudonyms = pseudonyms
        self._scale = scale or Scale()
        self._latest_s = latest_s
        self._times = mapping.times
        self._fixed_s = None if mapping.time in (None, ROW) else self._times.seconds(mapping.time)
        self._nulls = NULLS if mapping.nulls is None else frozenset(mapping.nulls)
        self._text_nulls = TEXT_NULLS if mapping.nulls is None else self._nulls
        self._id_nulls = ID_NULLS if mapping.nulls is None else self._nulls
        self._plain = self._plain_rows()

    def rows(
        self, numbers: Sequence[int], rows: Sequence[Mapping[str, Any]]
    ) -> list[BulkRow | RowError | RefusedError]:
        """The checked interactions of rows as the columns of the store, in order, or why one is refused.

        Args:
            numbers: Number of each row.
            rows: Column -> value.
        """
        plain = [None] * len(rows) if self._plain is None else self._plain(numbers, rows)
        return [
            found or self._checked(number, values) for found, number, values in zip(plain, numbers, rows, strict=True)
        ]

    def _checked(self, number: int, values: Mapping[str, Any]) -> BulkRow | RowError | RefusedError:
        try:
            interaction = self(values, number)
            return bulk_row(Row(interaction.user, checked(interaction, self._latest_s)))
        except (RowError, RefusedError) as error:
            return error

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
            fields[name] = self._number(column, values) if name in MEASURES else self._text(column, values)
        user = self._user(values)
        type_ = self._type(values)
        fields["value"], type_ = self._scale.read(fields.get("value"), type_)
        return Interaction(
            user=user,
            type=type_,
            timestamp=self._seconds(number, values),
            item=None if mapping.item is None else self._text(mapping.item, values, self._id_nulls),
            text=None if mapping.text is None else self._text(mapping.text, values),
            context=self._context(values),
            **fields,
        )

    def _plain_rows(self) -> PlainRows | None:
        mapping = self._mapping
        is_bare = mapping.text is None and not mapping.context and set(mapping.fields) <= {"value"}
        if mapping.item is None or not is_bare:
            return None
        return PlainRows(
            columns=(mapping.user, mapping.item),
            what=[name for name in (mapping.type_column, mapping.fields.get("value")) if name is not None],
            nulls=self._id_nulls,
            trims=self._trims,
            latest_s=self._latest_s,
            user_of=self._usable_user,
            what_of=self._usable_what,
            seconds_of=self._all_seconds,
        )

    def _usable_user(self, values: Mapping[str, Any]) -> str | None:
        try:
            user = self._user(values)
        except RefusedError:
            return None
        return user if is_pseudonym(user) else None

    def _usable_what(self, values: Mapping[str, Any]) -> What | None:
        column = self._mapping.fields.get("value")
        try:
            value = None if column is None else self._number(column, values)
            value, type_ = self._scale.read(value, self._type(values))
            # The checks of a whole interaction, whose other fields are right.
            found = checked(Interaction(user="0" * 64, type=type_, timestamp=0.0, item="-", value=value), math.inf)
        except (RowError, RefusedError):
            return None
        return What(found["type"], found["value"])

    def _all_seconds(self, numbers: Sequence[int], rows: Sequence[Mapping[str, Any]]) -> Floats:
        if self._mapping.time is not None:
            return np.array(numbers if self._fixed_s is None else [self._fixed_s] * len(rows), np.float64)
        values = [row.get(self._mapping.timestamp) for row in rows]
        if (found := plain_numbers(values)) is not None:
            return self._times.many(found)
        return np.array([self._usable_seconds(value) for value in values])

    def _usable_seconds(self, value: Any) -> float:
        try:
            found = self._times.seconds(value)
        except (OverflowError, ValueError):
            return math.nan
        return math.nan if found is None else found

    def _user(self, values: Mapping[str, Any]) -> str:
        column = self._mapping.user
        try:
            user = id_of(column, values.get(column), trims=self._trims)
        except RowError as error:
            raise RefusedError(Refused.USER, f"no user id in column {column}") from error
        if user is None or user in self._id_nulls:
            raise RefusedError(Refused.USER, f"no user id in column {column}" + (f": it is {user}" if user else ""))
        if self._pseudonyms is None:
            return user
        try:
            return self._pseudonyms.of(user)
        except UserIdError as error:
            raise RefusedError(Refused.USER, str(error)) from None

    def _type(self, values: Mapping[str, Any]) -> str:
        mapping = self._mapping
        if mapping.type_column is None:
            return mapping.type or ""
        given = self._text(mapping.type_column, values) or ""
        found = mapping.types.get(given) or mapping.types.get(given.lower())
        if found is None:
            # PURCHASE and "add to cart" are words that the store does not take as they are.
            found = "_".join(given.replace("-", " ").lower().split())
        if len(self.types) < _KEPT:
            self.types[given] = found
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
        if found is None or found != found:
            hint = self._times.unread(value)
            raise RefusedError(
                Refused.TIMESTAMP, f"{column} is {shown(value)}: expected a number or a date and time{hint}"
            )
        if not 0 <= found <= self._latest_s:
            # The file's own value: what it was read as would not be found in it.
            reason = Refused.TIMESTAMP if found < 0 else Refused.FUTURE
            raise RefusedError(reason, f"{column} is {shown(value)}: {'before 1970' if found < 0 else 'in the future'}")
        return found

    def _number(self, column: str, values: Mapping[str, Any]) -> Any:
        value = values.get(column)
        is_rating = self._scale.kind != "none" and column == self._mapping.fields.get("value")
        has_thumbs = is_rating and self._scale.kind == "thumbs"
        if isinstance(value, str):
            text, decimal = value.strip(), "," if column in self._commas else ""
            if not text or text in self._nulls:
                return None
            found = rating_in(text, decimal, has_thumbs=has_thumbs) if is_rating else amount_in(text, decimal)
            if found is None:
                raise wrong(column, value, "a number")
            return found
        if isinstance(value, float) and math.isnan(value):
            return None
        return float(value) if isinstance(value, Decimal) or (has_thumbs and isinstance(value, bool)) else value

    def _context(self, values: Mapping[str, Any]) -> dict[str, Scalar]:
        found = {name: values.get(column) for name, column in self._mapping.context.items()}
        return {name: _scalar(value) for name, value in found.items() if value is not None and value != ""}

    def _text(self, column: str, values: Mapping[str, Any], nulls: Collection[str] | None = None) -> str | None:
        try:
            found = id_of(column, values.get(column), trims=self._trims)
        except RowError:
            raise RowError(
                Reason.WRONG_TYPE, f"{column} is {shown(values.get(column))}: expected a string or an integer"
            ) from None
        return None if found is None or found in (self._text_nulls if nulls is None else nulls) else found


def one_item_each(rows: Iterable[Numbered], mapping: InteractionMapping) -> Iterator[Numbered]:
    """The rows with a single item each: a row with several, such as an order, is one for each of them.

    Lists of the same length in other fields are taken apart with it, and an event id gets the item's id as its end.

    Args:
        rows: Numbers, and column -> value; anything else is passed on as it is.
        mapping: A validated mapping; without `has_several_items` the rows come as they are.
    """
    if not mapping.has_several_items:
        yield from rows
        return
    column, separator = mapping.item or "", mapping.item_separator
    others, event = [*mapping.fields.values()], mapping.fields.get("event_id")
    for number, values in rows:
        found = values.get(column) if isinstance(values, dict) else None
        if separator is not None and isinstance(found, str):
            found = [part for part in found.split(separator) if part.strip()]
        if not isinstance(found, list) or not found:
            yield number, values
            continue
        for place, part in enumerate(found):
            row = {**values, column: part}
            for other in others:
                if isinstance(value := values.get(other), list) and len(value) == len(found):
                    row[other] = value[place]
            if event is not None and len(found) > 1 and row.get(event):
                row[event] = f"{row[event]}/{part}"
            yield number, row


def _scalar(value: Any) -> Any:
    """A value of the context: dates as ISO 8601, decimals as numbers."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value
