"""What a preview of a source prints."""

from __future__ import annotations

from recserve_client.cli.console import out
from recserve_client.cli.tables import table
from recserve_export.cli.common import say, say_json
from recserve_export.tabular.opening import Opened
from recserve_export.tabular.preview import Suggest, preview


def print_preview(opened: Opened, suggest: Suggest, *, as_json: bool) -> None:
    """Print how a source is read, its columns, and the command that imports it.

    Raises:
        SourceError: It cannot be read.
    """
    found = preview(opened, suggest)
    if as_json:
        say_json(found)
        return
    say(found.line)
    say(f"the first {found.rows_read:,} rows:")
    cells = [
        (one.name, one.kind + (f" split at {one.separator}" if one.separator else ""), f"{one.missing:,}",
         f"{one.distinct:,}", one.example)
        for one in found.columns
    ]  # fmt: skip
    out.print(table(("column", "kind", "missing", "distinct", "first"), cells, right=("missing", "distinct")))
    say("import it with:")
    say(f"  {found.command}")
