"""The field mapping: which column of a source becomes which field of an item, and with which type."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal, get_args

import msgspec

from recserve_client.contract import nearest
from recserve_export.errors import MappingError

AttributeType = Literal["str", "int", "float", "bool", "list", "place"]

#: Goes into the mapping's hash; raise it when the same rows begin to give other items.
_RULES: Final = 1
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
        separator: Where a list that comes as one string is split.
    """

    column: str = ""
    type: AttributeType = "str"
    separator: str = ";"


class FieldMapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the rows of a source become items.

    Attributes:
        id: Column of the item id.
        texts: Text fields by name.
        attributes: Attributes by name.
        available: Column (bool) that says whether the item may be recommended; `None` where every item may.
    """

    texts: dict[str, TextField]
    attributes: dict[str, AttributeField] = {}
    id: str = "id"
    available: str | None = None

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
        check_columns(self.columns, known)


def check_columns(columns: Iterable[str], known: Iterable[str]) -> None:
    """Refuse a column that the source does not have.

    Raises:
        MappingError: Names the column and the nearest that there is.
    """
    names = sorted(set(known))
    for column in columns:
        if column not in names:
            shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
            raise MappingError(f"the source has no column {column!r}{nearest(column, names)}; it has: {shown}")


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
        if not attribute.separator:
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


def read_mapping(path: Path) -> FieldMapping:
    """Read a mapping from a TOML file.

    Raises:
        MappingError: The file cannot be read, is not TOML, or does not fit the schema.
    """
    try:
        return validated(msgspec.toml.decode(path.read_bytes(), type=FieldMapping))
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MappingError(f"the mapping {path} cannot be read: {error}") from error


def mapping_from_options(
    *,
    id_field: str = "id",
    texts: Sequence[str] = (),
    attributes: Sequence[str] = (),
    columns: Sequence[str] = (),
    separator: str = ";",
    available: str | None = None,
) -> FieldMapping:
    """A mapping from command-line options.

    Args:
        id_field: Column of the item id.
        texts: ``NAME`` or ``NAME=WEIGHT``.
        attributes: ``NAME`` or ``NAME:TYPE``.
        columns: ``NAME=COLUMN`` for fields whose column has another name.
        separator: Where lists that come as one string are split.
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


def _attribute_option(option: str) -> tuple[str, AttributeType]:
    name, separator, type_ = option.rpartition(":")
    if not separator:
        return option, "str"
    try:
        return name, msgspec.convert(type_, AttributeType)
    except msgspec.ValidationError:
        known = get_args(AttributeType)
        raise MappingError(
            f"--attribute {option}: no type {type_!r}{nearest(type_, known)}; types: {', '.join(known)}"
        ) from None


def _column_option(option: str) -> tuple[str, str]:
    name, separator, column = option.partition("=")
    if not (name and separator and column):
        raise MappingError(f"--map {option}: write NAME=COLUMN")
    return name, column
