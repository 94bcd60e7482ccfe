"""The field mapping: which column of a source becomes which field of an item, and with which type."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, get_args

import msgspec

from recserve_client.contract import nearest
from recserve_export.errors import MappingError
from recserve_export.tabular.options import ReadOptions
from recserve_export.tabular.rows import check_columns
from recserve_export.tabular.values import ValueType, guess_decimal, guess_separator

#: Goes into the mapping's hash; raise it when the same rows begin to give other items.
_RULES: Final = 3
_MAX_WEIGHT: Final = 1e6


class TextField(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A text field y_f.

    Attributes:
        column: Column it comes from; empty takes the column with the field's name.
        weight: a_f in v = normalise(sum_f a_f G(y_f)).
    """

    column: str = ""
    weight: float = 1.0


class AttributeField(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An attribute.

    Attributes:
        column: Column it comes from; empty takes the column with the attribute's name.
        type: Type of its value; `list` is a list of str, `place` latitude and longitude in degrees.
        separator: Where a list that comes as one string is split; `None` for guessed.
        decimal: Before the fraction of a number that comes as a string; `None` for guessed.
    """

    column: str = ""
    type: ValueType = "str"
    separator: str | None = None
    decimal: Literal[".", ","] | None = None

    @property
    def mark(self) -> str:
        """What its values are read by; see `recserve_export.tabular.values.typed`."""
        return (self.separator if self.type == "list" else self.decimal) or ""


class FieldMapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the rows of a source become items.

    Attributes:
        id: Column of the item id.
        texts: Text fields by name.
        attributes: Attributes by name.
        available: Column (bool) that says whether the item may be recommended; `None` where every item may.
        nulls: Texts that stand for a missing value; `None` for the usual ones.
        read: How the source is to be read.
        is_lenient: Whether the source may lack columns other than the id and one text, as recipes allow.
    """

    texts: dict[str, TextField]
    attributes: dict[str, AttributeField] = {}
    id: str = "id"
    available: str | None = None
    nulls: tuple[str, ...] | None = None
    read: ReadOptions = ReadOptions()
    is_lenient: bool = False

    @property
    def field_weights(self) -> dict[str, float]:
        """a_f of every text field."""
        return {name: field.weight for name, field in self.texts.items()}

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read, each once."""
        columns = [self.id]
        columns += [text.column for text in self.texts.values()]
        columns += [attribute.column for attribute in self.attributes.values()]
        columns += [] if self.available is None else [self.available]
        return tuple(dict.fromkeys(columns))

    @property
    def sha256(self) -> str:
        """Hash of everything that decides how a row becomes an item."""
        return hashlib.sha256(b"%d\n" % _RULES + msgspec.json.encode(self, order="sorted")).hexdigest()

    def check_columns(self, known: Iterable[str]) -> None:
        """Refuse a column that the source does not have.

        Raises:
            MappingError: Names the column and the nearest that there is.
        """
        names = list(known)
        texts = [text.column for text in self.texts.values()]
        if self.is_lenient and (found := [column for column in texts if column in names]):
            check_columns([self.id, found[0]], names)
        else:
            check_columns(self.columns, names)


def validated(mapping: FieldMapping) -> FieldMapping:
    """The mapping with every column filled in.

    Raises:
        MappingError: No text field, an empty name or separator, or a weight that is not positive and finite.
    """
    if not mapping.texts:
        raise MappingError("no text field: name at least one column whose text describes the item, as in --text title")
    if not mapping.id or mapping.available == "" or "" in mapping.texts or "" in mapping.attributes:
        raise MappingError("the name of a field or column is empty")
    for name, text in mapping.texts.items():
        if not (math.isfinite(text.weight) and 0 < text.weight <= _MAX_WEIGHT):
            raise MappingError(
                f"the weight of text field {name!r} is {text.weight}: it must be in (0, {_MAX_WEIGHT:g}]"
            )
    for name, attribute in mapping.attributes.items():
        if attribute.separator == "":
            raise MappingError(f"the separator of attribute {name!r} is empty")
    return msgspec.structs.replace(
        mapping,
        texts={
            name: msgspec.structs.replace(field, column=field.column or name) for name, field in mapping.texts.items()
        },
        attributes={
            name: msgspec.structs.replace(field, column=field.column or name)
            for name, field in mapping.attributes.items()
        },
    )


def with_marks(mapping: FieldMapping, sample: Iterable[Mapping[str, Any]]) -> FieldMapping:
    """The mapping with separators of lists and decimal commas guessed from some rows, where it does not give them."""
    rows = list(sample)

    def guessed(field: AttributeField) -> AttributeField:
        values = (row.get(field.column) for row in rows)
        if field.type == "list" and field.separator is None:
            return msgspec.structs.replace(field, separator=guess_separator(values) or None)
        if field.type in ("int", "float") and field.decimal is None and guess_decimal(values):
            return msgspec.structs.replace(field, decimal=",")
        return field

    attributes = {name: guessed(field) for name, field in mapping.attributes.items()}
    return msgspec.structs.replace(mapping, attributes=attributes)


def mapping_from_options(
    *,
    id_field: str = "id",
    texts: Sequence[str] = (),
    attributes: Sequence[str] = (),
    columns: Sequence[str] = (),
    separator: str | None = None,
    available: str | None = None,
) -> FieldMapping:
    """A mapping from command-line options.

    Args:
        id_field: Column of the item id.
        texts: ``NAME`` or ``NAME=WEIGHT``.
        attributes: ``NAME`` or ``NAME:TYPE``.
        columns: ``NAME=COLUMN`` for fields whose column has another name.
        separator: Where lists that come as one string are split; `None` for guessed.
        available: Column that says whether an item may be recommended.

    Raises:
        MappingError: An option has another form, or names a field twice or one that there is not.
    """
    weights = dict(_text_option(option) for option in texts)
    types = dict(_attribute_option(option) for option in attributes)
    if len(weights) < len(texts) or len(types) < len(attributes):
        raise MappingError(f"a field is named twice: {', '.join([*texts, *attributes])}")
    renamed = dict(_column_option(option) for option in columns)
    names = [*weights, *types]
    for name in renamed:
        if name not in names:
            raise MappingError(f"--map names {name!r}, which is no --text or --attribute{nearest(name, names)}")
    return validated(
        FieldMapping(
            id=id_field,
            texts={name: TextField(renamed.get(name, ""), weight) for name, weight in weights.items()},
            attributes={name: AttributeField(renamed.get(name, ""), type_, separator) for name, type_ in types.items()},
            available=available,
        )
    )


def _text_option(option: str) -> tuple[str, float]:
    name, separator, weight = option.rpartition("=")
    if not separator:
        return option, 1.0
    try:
        return name, float(weight)
    except ValueError:
        raise MappingError(f"--text {option}: {weight!r} is no number; write NAME or NAME=WEIGHT") from None


def _attribute_option(option: str) -> tuple[str, ValueType]:
    name, separator, type_ = option.rpartition(":")
    if not separator:
        return option, "str"
    try:
        return name, msgspec.convert(type_, ValueType)
    except msgspec.ValidationError:
        known = get_args(ValueType)
        raise MappingError(
            f"--attribute {option}: no type {type_!r}{nearest(type_, known)}; types: {', '.join(known)}"
        ) from None


def _column_option(option: str) -> tuple[str, str]:
    name, separator, column = option.partition("=")
    if not (name and separator and column):
        raise MappingError(f"--map {option}: write NAME=COLUMN")
    return name, column
