"""One row of a source -> one item, or the reason why not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from recserve_client.contract import shown
from recserve_export.catalogue.mapping import AttributeField, FieldMapping
from recserve_export.tabular.rows import Reason, RowError
from recserve_export.tabular.values import (
    ID_NULLS,
    NULLS,
    NULLS_OF_LISTS,
    TEXT_NULLS,
    id_of,
    text_of,
    trimmed,
    typed,
    valid,
)
from recserve_server_ext.catalogue.item_checks import check_id, check_size
from recserve_server_ext.catalogue.store import StoredItem
from recserve_server_ext.config.server import Limits

#: Most characters of an item id; the contract refuses longer ones in requests.
MAX_ID_LENGTH: Final = 512


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


class RowConverter:
    """Makes items from rows by a field mapping.

    Attributes:
        left_out: By attribute, how many of its values could not be read and were left out.
        first: By attribute, why the first of them was.
        missing: By spelling, such as `nan`, how many values were taken as missing.
        whole_ids: Number of ids that were floats.
    """

    def __init__(self, mapping: FieldMapping, *, trims: bool = False) -> None:
        """Prepare a validated mapping.

        Args:
            mapping: The mapping.
            trims: Whether white space around an id is no part of it.
        """
        self.left_out: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self.missing: Counter[str] = Counter()
        self.whole_ids = 0
        self._mapping = mapping
        self._trims = trims
        self._limits = Limits()
        self._nulls = NULLS if mapping.nulls is None else frozenset(mapping.nulls)
        self._list_nulls = NULLS_OF_LISTS if mapping.nulls is None else self._nulls
        self._text_nulls = TEXT_NULLS if mapping.nulls is None else self._nulls
        self._id_nulls = ID_NULLS if mapping.nulls is None else self._nulls

    def __call__(self, values: Mapping[str, Any]) -> StoredItem:
        """The item of a row given as column -> value; a missing or empty value leaves its field out.

        An attribute that cannot be read as its type is left out and counted.

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
            item = StoredItem(item_id, texts, attributes, available)
            try:
                check_size(item, self._limits)
            except ValueError as error:
                raise RowError(Reason.TOO_LARGE, str(error)) from None
        except RowError as error:
            error.item_id = item_id
            raise
        return item

    def _id(self, values: Mapping[str, Any]) -> str:
        column = self._mapping.id
        value = values.get(column)
        found = id_of(column, value, trims=self._trims)
        if found is None or found in self._id_nulls or found.isspace():
            raise RowError(Reason.MISSING_ID, f"no id in column {column}" + (f": it is {found}" if found else ""))
        self.whole_ids += isinstance(value, float)
        if len(found) > MAX_ID_LENGTH:
            raise RowError(
                Reason.ID_TOO_LONG, f"{column} has {len(found)} characters, at most {MAX_ID_LENGTH}: {shown(found)}"
            )
        valid(column, found)
        try:
            check_id(found)
        except ValueError as error:
            raise RowError(Reason.INVALID_ID, str(error)) from None
        return found

    def _texts(self, values: Mapping[str, Any]) -> dict[str, str]:
        texts = {}
        for name, field in self._mapping.texts.items():
            value = values.get(field.column)
            if value is not None and (text := trimmed(text_of(field.column, value))):
                if text in self._text_nulls:
                    self.missing[text] += 1
                else:
                    texts[name] = valid(field.column, text)
        return texts

    def _attributes(self, values: Mapping[str, Any]) -> dict[str, Any]:
        attributes = {}
        for name, field in self._mapping.attributes.items():
            value = values.get(field.column)
            value = value.strip() if isinstance(value, str) else value
            if value is None or value == "" or value == [] or self._is_missing(value, field):
                continue
            try:
                found = typed(name, value, field.type, field.mark)
            except RowError as error:
                self.left_out[name] += 1
                self.first.setdefault(name, error.detail)
                continue
            if field.type == "list":
                found = [part for part in found if part not in self._list_nulls]
            attributes[name] = found
        return attributes

    def _is_missing(self, value: Any, field: AttributeField) -> bool:
        if isinstance(value, str):
            nulls = {"str": self._text_nulls, "list": self._list_nulls}.get(field.type, self._nulls)
            if value in nulls:
                self.missing[value] += 1
                return True
            return False
        return isinstance(value, float) and value != value

    def _available(self, values: Mapping[str, Any]) -> bool:
        column = self._mapping.available
        value = None if column is None else values.get(column)
        value = value.strip() if isinstance(value, str) else value
        if column is None or value is None or value == "" or value in self._nulls:
            return True
        return bool(typed(column, value, "bool"))
