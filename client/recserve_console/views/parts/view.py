"""What the page asks of a view."""

from __future__ import annotations

from typing import ClassVar

from recserve_console.console import Console
from recserve_server_ext.access.scopes import Scope


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
