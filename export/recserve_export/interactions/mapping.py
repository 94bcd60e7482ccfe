"""Which column of a source becomes which field of an interaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal, get_args

import msgspec

from recserve_client.contract import nearest
from recserve_export.catalogue.mapping import check_columns
from recserve_export.errors import MappingError

TimeUnit = Literal["s", "ms", "us"]
#: Fields that may be mapped besides user, item, text, timestamp and type.
FieldName = Literal["event_id", "value", "duration_s", "price", "quantity", "recommendation_id", "session_id"]
UNITS_PER_SECOND: Final[dict[TimeUnit, int]] = {"s": 1, "ms": 1000, "us": 1_000_000}


class InteractionMapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the rows of a source become interactions.

    Attributes:
        user: Column of the user id.
        timestamp: Column of the time: a number since 1970, or a date and time in ISO 8601 (UTC where it says nothing).
        time_unit: Unit of times that are numbers.
        item: Column of the item id; `None` where there are only texts.
        text: Column of a free text in place of an item.
        type: The type of every row, where there is no column of it.
        type_column: Column of the type.
        fields: Column by field.
        context: Column by name in the context.
    """

    user: str = "user_id"
    timestamp: str = "timestamp"
    time_unit: TimeUnit = "s"
    item: str | None = "item_id"
    text: str | None = None
    type: str | None = None
    type_column: str | None = None
    fields: dict[FieldName, str] = {}
    context: dict[str, str] = {}

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read, each once."""
        columns = [self.user, self.timestamp, self.item, self.text, self.type_column]
        columns += [*self.fields.values(), *self.context.values()]
        return tuple(dict.fromkeys(column for column in columns if column is not None))

    def check_columns(self, known: Iterable[str]) -> None:
        """Refuse a column that the source does not have.

        Raises:
            MappingError: Names the column and the nearest that there is.
        """
        check_columns(self.columns, known)


def validated(mapping: InteractionMapping) -> InteractionMapping:
    """The mapping itself.

    Raises:
        MappingError: There is no type, or two; no item and no text; or an empty name.
    """
    if (mapping.type is None) == (mapping.type_column is None):
        raise MappingError("say what the users did: --type rating for every row, or --type-field COLUMN")
    if mapping.item is None and mapping.text is None:
        raise MappingError("neither a column of items nor one of texts; name one: --item-field COLUMN")
    if "" in mapping.columns or "" in mapping.context or mapping.type == "":
        raise MappingError("the name of a field, column or type is empty")
    return mapping


def read_interaction_mapping(path: Path) -> InteractionMapping:
    """Read a mapping from a TOML file.

    Raises:
        MappingError: The file cannot be read, is not TOML, or does not fit the schema.
    """
    try:
        return validated(msgspec.toml.decode(path.read_bytes(), type=InteractionMapping))
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MappingError(f"the mapping {path} cannot be read: {error}") from error


def named_columns(option: str, values: Sequence[str]) -> dict[str, str]:
    """Column by name of an option that is given several times, as ``NAME`` or ``NAME=COLUMN``.

    Raises:
        MappingError: A value has another form, or a name occurs twice.
    """
    found: dict[str, str] = {}
    for value in values:
        name, separator, column = value.partition("=")
        if not name or (separator and not column):
            raise MappingError(f"{option} {value}: write NAME or NAME=COLUMN")
        if name in found:
            raise MappingError(f"{option} names {name!r} twice")
        found[name] = column or name
    return found


def field_columns(values: Sequence[str]) -> dict[FieldName, str]:
    """Column by field of ``--field NAME`` or ``--field NAME=COLUMN``.

    Raises:
        MappingError: There is no such field.
    """
    known = get_args(FieldName)
    found: dict[FieldName, str] = {}
    for name, column in named_columns("--field", values).items():
        if name not in known:
            raise MappingError(f"--field {name}: no such field{nearest(name, known)}; fields: {', '.join(known)}")
        found[msgspec.convert(name, FieldName)] = column
    return found
