"""Tables and text for the terminal: no markup and no control characters of a source get there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from rich.table import Table
from rich.text import Text


def plain(text: str) -> Text:
    """Text that is printed as it is: control characters are escaped, markup is not interpreted."""
    return Text("".join(character if character.isprintable() else ascii(character)[1:-1] for character in text))


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    right: Collection[str] = (),
    title: str | None = None,
) -> Table:
    """A table of plain text.

    Args:
        columns: Headings.
        rows: Cells, a row each.
        right: Headings of the columns that are aligned to the right, and never broken.
        title: Above it.
    """
    made = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for name in columns:
        is_right = name in right
        made.add_column(name, justify="right" if is_right else "left", no_wrap=is_right, overflow="fold")
    for row in rows:
        made.add_row(*(plain(cell) if isinstance(cell, str) else cell for cell in row))
    return made
