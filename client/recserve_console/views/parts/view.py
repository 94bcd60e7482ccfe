"""What the page asks of a view."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, TypeVar

from nicegui import ui

from recserve_console.console import Console
from recserve_console.views.parts.pieces import age, muted, waiting
from recserve_export.errors import ExportError
from recserve_server_ext.access.scopes import Scope
from recserve_server_ext.common.errors import ServerError

T = TypeVar("T")


class View:
    """A view of the page; one object for each open page.

    Attributes:
        name: In the address of the page.
        title: Of its tab.
        icon: Of its tab.
        scope: Scope of the key that may look at it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    icon: ClassVar[str]
    scope: ClassVar[Scope] = Scope.RECOMMEND

    def __init__(self, console: Console) -> None:
        self.console = console

    async def build(self) -> None:
        """Draw the view; called once, within its panel."""
        raise NotImplementedError

    async def refresh(self) -> None:
        """Bring it up to date; called every two seconds while it is shown."""

    async def count(
        self, box: ui.column, what: str, read: Callable[[Path], T], draw: Callable[[T], None], *, again: bool
    ) -> None:
        """Read something of the home that takes long, and draw it.

        Args:
            box: Where it is drawn.
            what: Names it while it is read.
            read: A function of a module; it raises ServerError or ExportError.
            draw: Draws what was read.
            again: Whether to read it anew where it was read before.
        """
        with box:
            waiting(f"Counting {what} …")
        reads = self.console.reads
        try:
            found = await (reads.again if again else reads.newest)(read, self.console.home)
        except (ServerError, ExportError) as error:
            box.clear()
            with box:
                ui.label(str(error)).classes("rs-bad")
            return
        box.clear()
        with box:
            muted(f"Counted {age(found.time_s)}.")
            draw(found.found)
