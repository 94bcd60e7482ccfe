"""Rows of a source, why one is refused, and what every source offers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Any, Final, Protocol

from recserve_client.contract import nearest
from recserve_export.errors import MappingError


class Reason(StrEnum):
    """Why a row is refused."""

    MALFORMED = "malformed"
    INVALID_TEXT = "invalid_text"
    MISSING_ID = "missing_id"
    INVALID_ID = "invalid_id"
    ID_TOO_LONG = "id_too_long"
    DUPLICATE_ID = "duplicate_id"
    WRONG_TYPE = "wrong_type"
    EMPTY_TEXT = "empty_text"
    TOO_LARGE = "too_large"


class RowError(Exception):
    """A row that cannot be used.

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


#: Lines of a table among which the one is looked for that names its columns: titles and comments may stand above.
HEADER_LINES: Final = 50
#: A row by its number (from 1): column -> value, or why it cannot be read.
Row = tuple[int, "dict[str, Any] | RowError"]


class Columns(Protocol):
    """Which columns are wanted: what a reader needs to know of a mapping."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read, each once."""

    def check_columns(self, known: Iterable[str]) -> None:
        """Refuse a column that the source does not have.

        Raises:
            MappingError: Names the column and the nearest that there is.
        """


class AllColumns:
    """Every column that there is; for a preview."""

    columns: tuple[str, ...] = ()

    def check_columns(self, known: Iterable[str]) -> None:
        """Refuse nothing."""


class Source(Protocol):
    """Rows to import; they can be read more than once.

    Attributes:
        format: How the source is read.
        total: Size of the whole, in the unit of `done`.
    """

    format: str
    total: int

    @property
    def done(self) -> int:
        """How much was read so far."""

    @property
    def how(self) -> str:
        """How the source is read, in a line: encoding, delimiter, header."""

    def rows(self) -> Iterator[Row]:
        """Every row, in order.

        Raises:
            MappingError: The mapping names a column that the source does not have.
            SourceError: The source cannot be read further.
        """


def check_columns(columns: Iterable[str], known: Iterable[str]) -> None:
    """Refuse a column that the source does not have; `meta.brand` is there where `meta` is.

    Raises:
        MappingError: Names the column and the nearest that there is.
    """
    names = sorted(set(known))
    for column in columns:
        if column not in names and column.partition(".")[0] not in names:
            shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
            raise MappingError(f"the source has no column {column!r}{nearest(column, names)}; it has: {shown}")


def header_place(lines: Sequence[Collection[str]], wanted: Iterable[str]) -> int | None:
    """Which of the first lines of a table names its columns; `None` where none names what is wanted.

    It is the first line that is not empty, if that names any; else the one that names most.

    Args:
        lines: The names of each line, none for an empty one.
        wanted: Columns, perhaps paths such as `meta.brand`.
    """
    needed = {name.partition(".")[0] for name in wanted}
    found = [sum(name in names or f"#{name}" in names for name in needed) for names in lines]
    first = next((place for place, names in enumerate(lines) if names), None)
    if first is None or not any(found):
        return None
    best = max(range(len(lines)), key=lambda place: found[place])
    return first if found[first] else best if found[best] >= min(2, len(needed)) else None


def flattened(values: dict[str, Any], paths: Iterable[tuple[str, list[str]]]) -> dict[str, Any]:
    """The row with what lies in nested objects under its path, such as `meta.brand`."""
    for path, steps in paths:
        if path not in values:
            found: Any = values
            for step in steps:
                found = _within(found, step)
            values[path] = found
    return values


def _within(value: Any, name: str) -> Any:
    """The field of an object, or that of each object of a list."""
    if isinstance(value, dict):
        return value.get(name)
    if isinstance(value, list):
        found = [_within(one, name) for one in value]
        return [one for one in found if one is not None] or None
    return None


def nested(columns: Iterable[str]) -> list[tuple[str, list[str]]]:
    """The columns that are paths into nested objects, with their steps."""
    return [(name, name.split(".")) for name in columns if "." in name]
