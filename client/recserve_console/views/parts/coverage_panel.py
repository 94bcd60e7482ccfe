"""What is never recommended: items that no logged answer has."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from nicegui import ui

from recserve_console.console import Console
from recserve_console.home.coverage import not_recommended
from recserve_console.home.log import has_log
from recserve_console.views.parts.pieces import card, muted, told


class CoveragePanel:
    """Compares the catalogue with the log, once it is asked for."""

    def __init__(self, console: Console, opened: Callable[[str], Awaitable[None]]) -> None:
        """
        Args:
            console: The console, beside a home.
            opened: Called with the id of the item that was chosen.
        """
        self._console, self._opened = console, opened
        with card("Never recommended", "Items that may be recommended, and that none of the newest answers has."):
            ui.button("Look", icon="visibility_off", on_click=self._read).props("outline")
            self._box = ui.column().classes("w-full gap-1")

    async def _read(self) -> None:
        home = self._console.home
        assert home is not None
        if not has_log(home):
            return
        with told():
            found = await asyncio.to_thread(not_recommended, home)
            title = self._console.schema.title
            items = (await self._console.client.items.get(found.ids)).items if found.ids else []
            self._box.clear()
            with self._box:
                muted(
                    f"{found.items:,} of {found.available:,} items are in none of the newest {found.answers:,} logged "
                    f"answers; {len(found.ids)} of them are shown."
                )
                for item in items:
                    button = ui.button(item.texts.get(title) or item.id, on_click=partial(self._opened, item.id))
                    button.props("flat dense align=left no-caps")
