"""What is guessed of a log before anything is recorded: the unit of its times, and whether days stand before months."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

import msgspec

from recserve_client.contract import shown
from recserve_export.errors import MappingError
from recserve_export.interactions.mapping import InteractionMapping
from recserve_export.tabular.dates import days_first, ends_with_year
from recserve_export.tabular.times import guess_unit

#: Rows in which a day before a month is looked for.
_ROWS: Final = 50_000


def with_times(
    mapping: InteractionMapping, rows: Sequence[dict[str, Any]], more: Callable[[], Iterable[dict[str, Any]]]
) -> InteractionMapping:
    """The mapping with the unit of times that are numbers.

    Args:
        mapping: A validated mapping.
        rows: The first rows, which the unit is found in.
        more: Reads the rows from the first on; called where the order of days and months has to be found.

    Raises:
        MappingError: Some times have the day before the month, which is only read so when asked for.
    """
    if mapping.time is not None:
        return mapping
    column = mapping.timestamp
    has_order = mapping.day_first or not any(ends_with_year(text) for text in _texts(rows, column))
    example = None if has_order else days_first(_texts(islice(more(), _ROWS), column))
    if example is not None:
        raise MappingError(
            f"{column} has days before months, as in {shown(example)}: say so with --day-first; nothing is recorded"
        )
    if mapping.time_unit != "auto":
        return mapping
    return msgspec.structs.replace(mapping, time_unit=guess_unit([row.get(column) for row in rows]))


def _texts(rows: Iterable[dict[str, Any]], column: str) -> Iterator[str]:
    return (value.strip() for row in rows if isinstance(value := row.get(column), str))
