"""Which column of a source becomes which field of an interaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal, get_args

import msgspec

from recserve_client.contract import nearest
from recserve_export.errors import MappingError
from recserve_export.tabular.options import ReadOptions
from recserve_export.tabular.rows import check_columns
from recserve_export.tabular.times import Times, TimeUnit
from recserve_server_ext.interactions.interaction import MEASURES

#: Fields that may be mapped besides user, item, text, timestamp and type.
FieldName = Literal["event_id", "value", "duration_s", "price", "quantity", "recommendation_id", "session_id"]
#: What zeros among ratings are; `auto` finds it by the scale.
Zeros = Literal["auto", "rating", "unrated"]
#: In place of a column of times: the order of the rows.
ROW: Final = "row"


class InteractionMapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the rows of a source become interactions.

    Attributes:
        user: Column of the user id.
        timestamp: Column of the time: a number since 1970, or a date and time (ISO 8601 and other usual forms).
        time: In place of that column: `row` for the order of the rows, or one time for all.
        time_unit: Unit of times that are numbers; `auto` tells it by their size.
        time_zone: Time zone of dates and times that name none.
        day_first: Whether 03/04/2024 is the third of April.
        item: Column of the item id; `None` where there are only texts.
        item_separator: Where a text with several item ids is split; lists are taken apart then, too.
        text: Column of a free text, in place of an item or about it.
        type: The type of every row, where there is no column of it.
        type_column: Column of the type.
        types: Type by what the source calls it, such as `transaction`.
        zeros: What a rating of 0 is.
        fields: Column by field.
        context: Column by name in the context.
        nulls: Texts that stand for a missing value; `None` for the usual ones.
        read: How the source is to be read.
    """

    user: str = "user_id"
    timestamp: str = "timestamp"
    time: str | None = None
    time_unit: TimeUnit = "auto"
    time_zone: str = "UTC"
    day_first: bool = False
    item: str | None = "item_id"
    item_separator: str | None = None
    text: str | None = None
    type: str | None = None
    type_column: str | None = None
    types: dict[str, str] = {}
    zeros: Zeros = "auto"
    fields: dict[FieldName, str] = {}
    context: dict[str, str] = {}
    nulls: tuple[str, ...] | None = None
    read: ReadOptions = ReadOptions()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read, each once."""
        timestamp = self.timestamp if self.time is None else None
        columns = [self.user, timestamp, self.item, self.text, self.type_column]
        columns += [*self.fields.values(), *self.context.values()]
        return tuple(dict.fromkeys(column for column in columns if column is not None))

    @property
    def has_several_items(self) -> bool:
        """Whether a row may have several items: what a path finds in a list of objects, or a separator parts."""
        return self.item is not None and (self.item_separator is not None or "." in self.item)

    @property
    def numbers(self) -> list[str]:
        """The columns of numbers other than times."""
        return [column for name, column in self.fields.items() if name in MEASURES]

    def check_columns(self, known: Iterable[str]) -> None:
        """Refuse a column that the source does not have.

        Raises:
            MappingError: Names the column and the nearest that there is.
        """
        names = set(known)
        if self.time is None and self.timestamp not in names:
            try:
                check_columns([self.timestamp], names)
            except MappingError as error:
                raise MappingError(
                    f"{error}; a log without times is read with --time row (their order) or --time 2024-03-01"
                ) from None
        check_columns(self.columns, names)

    @property
    def times(self) -> Times:
        """What reads times."""
        return Times(self.time_unit, self.time_zone, day_first=self.day_first)


def validated(mapping: InteractionMapping) -> InteractionMapping:
    """The mapping itself.

    Raises:
        MappingError: There is no type, or two; no item and no text; or an empty name.
    """
    if (mapping.type is None) == (mapping.type_column is None):
        raise MappingError("say what the users did: --type rating for every row, or --type-field COLUMN")
    if mapping.item is None and mapping.text is None:
        raise MappingError("neither a column of items nor one of texts; name one: --item-field COLUMN")
    if "" in mapping.columns or "" in mapping.context or "" in (mapping.type, mapping.item_separator):
        raise MappingError("the name of a field, column or type is empty, or a separator")
    try:
        times = mapping.times
    except (ValueError, KeyError, OSError) as error:
        raise MappingError(f"no time zone {mapping.time_zone!r}; write one as in Europe/Berlin") from error
    if mapping.time not in (None, ROW) and times.seconds(mapping.time) is None:
        raise MappingError(f"--time {mapping.time} is no time; write row, or a time such as 2024-03-01T12:00")
    return mapping


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


def named_types(values: Sequence[str]) -> dict[str, str]:
    """Type by the source's name of it, of ``--map-type NAME=TYPE``.

    Raises:
        MappingError: A value has another form, or a name occurs twice.
    """
    found: dict[str, str] = {}
    for value in values:
        name, _, type_ = value.rpartition("=")
        if not name or not type_ or name in found:
            raise MappingError(f"--map-type {value}: write NAME=TYPE, each name once")
        found[name] = type_
    return found


def overridden(recipe: InteractionMapping, given: InteractionMapping) -> InteractionMapping:
    """A recipe with what the options name in its place."""
    default = InteractionMapping()
    changed = {
        name: getattr(given, name)
        for name in InteractionMapping.__struct_fields__
        if getattr(given, name) != getattr(default, name)
    }
    if "type" in changed or "type_column" in changed:
        changed = {"type": None, "type_column": None, **changed}
    for name in ("fields", "context", "types"):
        if name in changed:
            changed[name] = {**getattr(recipe, name), **changed[name]}
    return msgspec.structs.replace(recipe, **changed)


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
