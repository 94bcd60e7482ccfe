"""What a preview of a source prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from recserve_client.cli.console import out
from recserve_export.cli.common import say, say_json
from recserve_export.tables import table
from recserve_export.tabular.opening import Opened
from recserve_export.tabular.preview import Column, columns_of, read_as, sample_of
from recserve_export.tabular.rows import AllColumns

#: Rows that are looked at.
_ROWS: Final = 2000
Suggest = Callable[[Opened, Sequence[Column]], str]


def print_preview(opened: Opened, suggest: Suggest, *, as_json: bool) -> None:
    """Print how a source is read, its columns, and the command that imports it.

    Raises:
        SourceError: It cannot be read.
    """
    source = opened.source(AllColumns())
    rows = sample_of(source, _ROWS)
    columns = columns_of(rows)
    command = suggest(opened, columns)
    if as_json:
        say_json({"read_as": source.how, "rows_read": len(rows), "columns": columns, "command": command})
        return
    say(read_as(source, columns, None))
    say(f"the first {len(rows):,} rows:")
    cells = [
        (one.name, one.kind + (f" split at {one.separator}" if one.separator else ""), f"{one.missing:,}",
         f"{one.distinct:,}", one.example)
        for one in columns
    ]  # fmt: skip
    out.print(table(("column", "kind", "missing", "distinct", "first"), cells, right=("missing", "distinct")))
    say("import it with:")
    say(f"  {command}")
