"""One item: its texts and attributes, to change, hide or delete with its revision; and its neighbours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from nicegui import ui

from recserve_client.contract import CatalogueItem, ItemsChanged, NewItem, OldItem
from recserve_client.errors import InvalidRequest
from recserve_console.console import Console
from recserve_console.views.parts.finder import titles_of
from recserve_console.views.parts.pieces import card, confirm, heading, muted, say, told
from recserve_server_ext.access.scopes import Scope

_NEIGHBOURS = 8


class ItemPanel:
    """Shows one item at a time."""

    def __init__(self, console: Console, changed: Callable[[], Awaitable[None]]) -> None:
        """
        Args:
            console: The console.
            changed: Called after a change of the catalogue.
        """
        self._console, self._changed = console, changed
        self._box = ui.column().classes("w-full gap-3 min-w-0")
        self._item: CatalogueItem | None = None

    async def open(self, item_id: str) -> None:
        """Read an item and show it."""
        with told():
            found = await self._console.client.items.get([item_id])
            self._item = found.items[0] if found.items else None
            self._box.clear()
            with self._box:
                if self._item is None:
                    muted("The catalogue has no such item.")
                    return
                self._draw(self._item)
                await self._draw_neighbours(self._item)
                # On a narrow page the panel is below the list.
                ui.run_javascript(f'document.getElementById("c{self._box.id}").scrollIntoView({{block: "nearest"}})')

    def _draw(self, item: CatalogueItem) -> None:
        title = item.texts.get(self._console.schema.title) or item.id
        with card():
            heading(title, 2)
            state = "may be recommended" if item.available else "hidden: never recommended"
            muted(f"{item.id}  ·  last changed at revision {item.revision}  ·  {state}")
            self._texts = {
                name: ui.textarea(name, value=text).props("outlined dense autogrow").classes("w-full")
                for name, text in item.texts.items()
            }
            packed = msgspec.json.format(msgspec.json.encode(item.attributes), indent=2).decode()
            self._attributes = ui.textarea("attributes (JSON)", value=packed).props("outlined dense autogrow")
            self._attributes.classes("w-full rs-code")
            if why := self._console.why_not(Scope.ITEMS):
                muted(why)
                return
            with ui.row().classes("gap-2"):
                ui.button("Save", icon="save", on_click=self._save)
                word, icon = ("Hide", "visibility_off") if item.available else ("Show again", "visibility")
                ui.button(word, icon=icon, on_click=self._toggle).props("outline")
                delete = confirm(
                    "Delete this item?", f"{title} will not be recommended any more.", "Delete", self._delete
                )
                ui.button("Delete …", icon="delete", on_click=delete.open).props("outline color=negative")

    async def _draw_neighbours(self, item: CatalogueItem) -> None:
        title = self._console.schema.title
        fields = [title] if title else []
        try:
            slate = await self._console.client.similar(item.id, k=_NEIGHBOURS, strategy="text", fields=fields)
        except InvalidRequest as error:
            muted(error.message)
            return
        with card("Nearest by meaning"):
            for near, name in titles_of(slate, title).items():
                score = next(one.score for one in slate.items if one.id == near)
                ui.button(f"{name}  ·  {score:.3f}", on_click=lambda _, near=near: self.open(near)).props(
                    "flat dense align=left no-caps"
                ).classes("w-full")

    async def _save(self) -> None:
        with told():
            attributes = msgspec.json.decode(str(self._attributes.value or "{}").encode(), type=dict[str, Any])
            texts = {name: str(field.value or "") for name, field in self._texts.items()}
            await self._upsert("item.change", texts=texts, attributes=attributes)

    async def _toggle(self) -> None:
        assert self._item is not None
        with told():
            action = "item.hide" if self._item.available else "item.show"
            await self._upsert(action, available=not self._item.available)

    async def _upsert(self, action: str, **changes: Any) -> None:
        """Write the item with changes, unless somebody else changed it since it was read."""
        item = self._item
        assert item is not None
        fields = {"texts": item.texts, "attributes": item.attributes, "available": item.available, **changes}
        self._console.check(Scope.ITEMS)
        new = NewItem(item.id, if_revision=item.revision, **fields)
        await self._finish(action, self._console.client.items.upsert([new]))

    async def _delete(self) -> None:
        assert self._item is not None
        old = OldItem(self._item.id, self._item.revision)
        with told():
            self._console.check(Scope.ITEMS)
            await self._finish("item.delete", self._console.client.items.delete([old]))

    async def _finish(self, action: str, call: Awaitable[ItemsChanged]) -> None:
        """Make a change, write it down, tell what came of it, and show the item as it is now."""
        assert self._item is not None
        item = self._item.id
        changed = await call
        (result,) = changed.results
        outcome = f"{result.status} {result.error}".strip()
        self._console.record(Scope.ITEMS, action, item, outcome)
        is_good = result.status in ("updated", "unchanged", "deleted", "created")
        words = f"{result.status} at revision {changed.revision}" if is_good else outcome
        if result.status == "conflict":
            words = "somebody else changed this item: it is shown as it is now, and your change was not made"
        say(words, is_good=is_good)
        await self.open(item)
        await self._changed()
