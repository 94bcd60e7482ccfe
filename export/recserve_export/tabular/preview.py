"""What the columns of a source hold, by some of its rows."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any, Final, Literal

import msgspec

from recserve_client.contract import shown
from recserve_export.tabular.dates import days_first
from recserve_export.tabular.opening import Opened
from recserve_export.tabular.rows import AllColumns, RowError, Source
from recserve_export.tabular.times import Times
from recserve_export.tabular.values import NULLS_OF_LISTS, amount_in, guess_separator

ColumnKind = Literal["empty", "integer", "number", "boolean", "time", "list", "object", "text"]
#: Kinds in the order in which they are tried.
_WORDS: Final = frozenset(("true", "false", "yes", "no", "y", "n"))
_SHOWN_COLUMNS: Final = 8
#: Rows that a preview looks at.
_ROWS: Final = 2000


class Column(msgspec.Struct, frozen=True):
    """A column as it is understood.

    Attributes:
        name: Its name.
        kind: Kind of its values.
        distinct: Distinct values in the rows that were looked at.
        missing: Rows without a value.
        separator: Where its lists are split.
        day_first: Whether its times have days before months.
        example: The first value.
    """

    name: str
    kind: ColumnKind
    distinct: int
    missing: int
    separator: str
    day_first: bool
    example: str


#: Makes the command that imports a source with these columns.
Suggest = Callable[[Opened, Sequence[Column]], str]


class Preview(msgspec.Struct, frozen=True):
    """How a source would be read, by its first rows.

    Attributes:
        read_as: How it is read: encoding, delimiter, header.
        rows_read: Number of rows that were looked at.
        columns: Its columns.
        command: The command that imports it.
    """

    read_as: str
    rows_read: int
    columns: list[Column]
    command: str

    @property
    def line(self) -> str:
        """How it is read and its columns, in a line."""
        return _line(self.read_as, self.columns, None)


def preview(opened: Opened, suggest: Suggest) -> Preview:
    """Look at the first rows of a source. Raises SourceError where it cannot be read."""
    source = opened.source(AllColumns())
    rows = sample_of(source, _ROWS)
    columns = columns_of(rows)
    return Preview(source.how, len(rows), columns, suggest(opened, columns))


def columns_of(rows: Sequence[dict[str, Any]]) -> list[Column]:
    """The columns of some rows."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [_column(name, [row.get(name) for row in rows]) for name in names]


def read_as(source: Source, columns: Iterable[Column], rows: int | None) -> str:
    """How a source is read, in a line: encoding, delimiter, rows, header, columns with their kinds."""
    return _line(source.how, columns, rows)


def _line(how: str, columns: Iterable[Column], rows: int | None) -> str:
    found = [f"{column.name} {column.kind}" for column in columns]
    some = ", ".join(found[:_SHOWN_COLUMNS]) + (
        f" and {len(found) - _SHOWN_COLUMNS} more" * (len(found) > _SHOWN_COLUMNS)
    )
    count = "" if rows is None else f", {rows:,} rows"
    return f"read as: {how}{count}" + (f", {some}" if some else "")


def sample_of(source: Source, most: int) -> list[dict[str, Any]]:
    """The first rows that can be read."""
    found: list[dict[str, Any]] = []
    for _, values in source.rows():
        if not isinstance(values, RowError):
            found.append(values)
        if len(found) >= most:
            break
    return found


def _column(name: str, values: list[Any]) -> Column:
    given = [value for value in values if not _is_missing(value)]
    kind = _kind(given)
    separator = guess_separator(given) if kind == "list" else ""
    distinct = len({repr(value) for value in given})
    example = shown(given[0]) if given else ""
    day_first = kind == "time" and days_first(value for value in given if isinstance(value, str)) is not None
    return Column(name, kind, distinct, len(values) - len(given), separator, day_first, example)


def bare_name(name: str) -> str:
    """The name of a column without case and signs, by which the usual ones are known: `User-ID` is `userid`."""
    return "".join(character for character in name.lower() if character.isalnum())


def _is_missing(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip() or value.strip() in NULLS_OF_LISTS
    return value is None or value == [] or (isinstance(value, float) and value != value)


def _kind(values: list[Any]) -> ColumnKind:
    if not values:
        return "empty"
    if all(isinstance(value, bool) or (isinstance(value, str) and value.lower() in _WORDS) for value in values):
        return "boolean"
    numbers = [amount_in(value.strip()) if isinstance(value, str) else value for value in values]
    found = [one for one in numbers if isinstance(one, int | float | Decimal) and not isinstance(one, bool)]
    if len(found) == len(values):
        return "integer" if all(one == int(one) for one in found if math.isfinite(one)) else "number"
    if all(isinstance(value, list) for value in values):
        return "list"
    if all(isinstance(value, dict) for value in values):
        return "object"
    if all(isinstance(value, datetime.date | str) and _is_time(value) for value in values):
        return "time"
    texts = [value for value in values if isinstance(value, str)]
    lists = sum(text.startswith("[") or "|" in text for text in texts)
    return "list" if texts and lists > len(texts) / 2 else "text"


def _is_time(value: Any) -> bool:
    try:
        return any(Times(day_first=day_first).seconds(value) is not None for day_first in (False, True))
    except (ValueError, OverflowError):
        return False
