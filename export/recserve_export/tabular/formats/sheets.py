"""Workbooks: .xlsx, .xls and .ods, the first sheet or one by name."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from recserve_client.contract import nearest
from recserve_export.errors import SourceError
from recserve_export.tabular.options import ReadOptions
from recserve_export.tabular.rows import HEADER_LINES, Columns, Row, header_place
from recserve_export.tabular.streams import Stream, readable


class SheetSource:
    """The rows of a sheet below its header; numbers and dates are kept, whole numbers are integers."""

    format = "xlsx"

    def __init__(self, stream: Stream, wanted: Columns, options: ReadOptions) -> None:
        """Open a workbook.

        Raises:
            SourceError: It cannot be read, or has no such sheet.
        """
        import python_calamine

        self._stream = stream
        self._wanted = wanted
        self._names = options.columns
        self._errors = (python_calamine.CalamineError, ValueError)
        with readable(stream.where, self._errors), stream.seekable() as file:
            workbook = python_calamine.CalamineWorkbook.from_filelike(file)
            names = workbook.sheet_names
            self._sheet = options.sheet or (names[0] if names else "")
            if self._sheet not in names:
                raise SourceError(
                    f"{stream.where} has no sheet {self._sheet!r}{nearest(self._sheet, names)}; "
                    f"it has: {', '.join(names)}"
                )
            self._table = workbook.get_sheet_by_name(self._sheet)
        self.total = self._table.height
        self.done = 0

    @property
    def how(self) -> str:
        """The sheet and its header."""
        header = f"columns {', '.join(self._names)}" if self._names else "header"
        return f"workbook, sheet {self._sheet}, {header}"

    def rows(self) -> Iterator[Row]:
        """Every row, in order; see `Source`."""
        records = iter(self._table.iter_rows())
        header = list(self._names)
        if not header:
            first = [[str(name).strip() for name in found] for found in islice(records, HEADER_LINES)]
            named = [{name for name in names if name} for names in first]
            place = header_place(named, self._wanted.columns)
            if place is None:
                place = next((place for place, names in enumerate(named) if names), None)
            if place is None:
                raise SourceError(f"the sheet {self._sheet} of {self._stream.where} has no header line")
            header = first[place]
            records = islice(self._table.iter_rows(), place + 1, None)
        self._wanted.check_columns(header)
        number = 0
        for self.done, record in enumerate(records, start=1):
            if any(cell != "" for cell in record):
                number += 1
                yield number, dict(zip(header, map(_plain, record), strict=False))
        self.done = self.total


def _plain(value: Any) -> Any:
    """A cell's value; workbooks hold every number as a float."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return None if value == "" else value
