"""Catalogue: browse, find and filter items; change one; its neighbours; a map of all."""

from __future__ import annotations

from typing import Any, Final

from nicegui import ui

from recserve_client.calls import text
from recserve_client.contract import ItemsFound
from recserve_client.errors import RecserveError
from recserve_console.views.parts.coverage_panel import CoveragePanel
from recserve_console.views.parts.finder import Finder, Found, titles_of
from recserve_console.views.parts.item_panel import ItemPanel
from recserve_console.views.parts.map_panel import MapPanel
from recserve_console.views.parts.pieces import card, heading, muted, say, table
from recserve_console.views.parts.view import View
from recserve_server_ext.access.scopes import Scope

_PAGE: Final = 20
_MATCHING: Final = 50


class Catalogue(View):
    """The fourth view."""

    name, title, icon = "catalogue", "Catalogue", "inventory_2"
    scope = Scope.ITEMS

    async def build(self) -> None:
        """See `View.build`."""
        #: `after` of each page up to the one that is shown.
        self._pages = [""]
        self._is_read = False
        heading("Catalogue")
        with ui.element("div").classes("grid grid-cols-1 md:grid-cols-2 gap-3 w-full q-mt-sm"):
            with ui.column().classes("w-full gap-3 min-w-0"), card("Items"):
                Finder(self.console, "Find an item", self._open_found)
                self._where = ui.input("Filter, such as year >= 1990").props("outlined dense debounce=300 clearable")
                self._where.classes("w-full").on_value_change(self._list)
                self._items = ui.column().classes("w-full gap-1")
            with ui.column().classes("w-full min-w-0"):
                self._panel = ItemPanel(self.console, self._list)
        if self.console.home is not None:
            with ui.column().classes("w-full q-mt-md"):
                MapPanel(self.console, self._panel.open)
                CoveragePanel(self.console, self._panel.open)

    async def refresh(self) -> None:
        """See `View.refresh`: the first page, as soon as the server answers."""
        if not self._is_read and self.console.watcher.is_well is not False:
            await self._list()

    async def _open_found(self, found: Found) -> None:
        await self._panel.open(found.id)

    async def _list(self) -> None:
        """Draw the page, or what matches the filter."""
        where = str(self._where.value or "").strip()
        try:
            await self.console.schema.refresh()
            if where:
                await self._list_matching(where)
            else:
                self._draw_page(await self.console.client.items.list(after=self._pages[-1], limit=_PAGE))
            self._is_read = True
        except RecserveError as error:
            if where:
                self._say_wrong(error.message)
            else:
                say(error)

    def _say_wrong(self, message: str) -> None:
        self._items.clear()
        with self._items:
            ui.label(message).classes("rs-bad rs-code")

    async def _list_matching(self, where: str) -> None:
        """Items that match, as a recommendation of the text strategy: the server lists none by a filter."""
        title = self.console.schema.title
        slate = await self.console.client.recommend(
            [text("item")],
            k=_MATCHING,
            strategy="text",
            where=where,
            count=True,
            explain=False,
            fields=[title] if title else [],
        )
        self._items.clear()
        with self._items:
            muted(f"{slate.count:,} available items match; {len(slate.items)} of them are shown.")
            self._draw_rows([(item, name, True) for item, name in titles_of(slate, title).items()])

    def _draw_page(self, found: ItemsFound) -> None:
        title = self.console.schema.title
        self._items.clear()
        with self._items:
            muted(f"By id, page {len(self._pages)}, revision {found.revision}")
            rows = [(item.id, item.texts.get(title) or item.id, item.available) for item in found.items]
            self._draw_rows(rows)
            with ui.row().classes("w-full"):
                back = ui.button("Back", icon="chevron_left", on_click=self._back).props("flat")
                back.set_enabled(len(self._pages) > 1)
                more = ui.button("Next", icon="chevron_right", on_click=lambda: self._next(found.next)).props("flat")
                more.set_enabled(bool(found.next))

    def _draw_rows(self, rows: list[tuple[str, str, bool]]) -> None:
        def opening(item: str, name: str) -> Any:
            return lambda: (
                ui.button(name, on_click=lambda: self._panel.open(item))
                .props("flat dense align=left no-caps")
                .classes("w-full")
            )

        cells = [(opening(item, name), item, "" if is_available else "hidden") for item, name, is_available in rows]
        table(("title", "id", "state"), cells, label="Items")

    async def _next(self, after: str) -> None:
        self._pages.append(after)
        await self._list()

    async def _back(self) -> None:
        self._pages.pop()
        await self._list()
