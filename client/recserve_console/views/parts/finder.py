"""A field that finds items as one types: by id, by the beginning of the title, and by meaning."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from msgspec import UNSET
from nicegui import ui

from recserve_client.calls import text
from recserve_client.contract import Slate
from recserve_client.contract.filters import Or, Prefix
from recserve_client.errors import RecserveError
from recserve_console.console import Console
from recserve_console.views.parts.pieces import muted, say

_MOST: Final = 8
_OF_EACH: Final = 5
_DEBOUNCE_MS: Final = 180
#: Longer words are no beginning of a title, but a text.
_LONGEST: Final = 200


class Found(NamedTuple):
    """An item that was found.

    Attributes:
        id: Its id.
        title: Its title; its id where it has none.
    """

    id: str
    title: str


async def find(console: Console, words: str) -> list[Found]:
    """Items whose id is these words, whose title begins with them, or that mean something near; the best first.

    Raises:
        RecserveError: The server does not answer.
    """
    await console.schema.refresh()
    title, client = console.schema.title, console.client
    fields = [title] if title else []
    exact = client.items.get([words])
    near = client.recommend([text(words)], k=_MOST, strategy="text", fields=fields, explain=False)
    asked = [near]
    if title and len(words) <= _LONGEST:
        # Case matters to the server: as typed, as the beginning of a sentence, and as titles are often written.
        spellings = dict.fromkeys((words, words[:1].upper() + words[1:], words.title()))
        begins = Or([Prefix(title, spelling) for spelling in spellings])
        named = client.recommend([text(words)], k=_OF_EACH, strategy="text", fields=fields, explain=False, where=begins)
        asked.insert(0, named)
    by_id, *slates = await asyncio.gather(exact, *asked)
    found = [Found(item.id, item.texts.get(title) or item.id) for item in by_id.items]
    for slate in slates:
        found.extend(Found(item, name) for item, name in titles_of(slate, title).items())
    return list(dict.fromkeys(found))[:_MOST]


def titles_of(slate: Slate, title: str) -> dict[str, str]:
    """Titles of the items of a slate, by id; the id where there is none."""
    named = {}
    for item in slate.items:
        fields = item.fields if item.fields is not UNSET else {}
        named[item.id] = str(fields.get(title) or item.id)
    return named


class Finder:
    """The field and what it found, as buttons below it."""

    def __init__(
        self,
        console: Console,
        label: str,
        pick: Callable[[Found], Awaitable[None]],
        pick_text: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        """
        Args:
            console: The console.
            label: Of the field.
            pick: Called with the item that was chosen.
            pick_text: Called with the words, where they may be taken as a free text.
        """
        self._console, self._pick, self._pick_text = console, pick, pick_text
        self._asked = 0
        self._box = ui.column().classes("w-full gap-1")
        with self._box:
            self._build(label)

    def _build(self, label: str) -> None:
        self._input = ui.input(label).props(f'debounce={_DEBOUNCE_MS} clearable outlined dense type="search"')
        self._input.classes("w-full").on_value_change(self._search)
        if self._pick_text is not None:
            # With what stands in the field: who is quick presses Enter before it was told.
            told = "(event) => emit(event.target.value)"
            self._input.on("keydown.enter", lambda event: self._take_text(str(event.args or "")), js_handler=told)
        self._list = ui.column().classes("w-full gap-0").props('aria-live="polite"')

    async def _take_text(self, typed: str) -> None:
        words = typed.strip()
        if words and self._pick_text is not None:
            # The field is emptied only where it is known to differ.
            self._asked += 1
            self._input.value = typed
            self.clear()
            with self._box:
                await self._pick_text(words)

    def clear(self) -> None:
        """Empty the field."""
        self._asked += 1
        self._input.value = ""
        self._list.clear()

    async def _search(self) -> None:
        words = str(self._input.value or "").strip()
        self._asked += 1
        asked = self._asked
        if not words:
            self._list.clear()
            return
        try:
            found = await find(self._console, words)
        except RecserveError as error:
            if asked == self._asked:
                say(error)
            return
        # What was typed meanwhile is asked for by itself.
        if asked == self._asked:
            self._draw(words, found)

    def _draw(self, words: str, found: list[Found]) -> None:
        self._list.clear()
        with self._list:
            if self._pick_text is not None:
                shown = words if len(words) < 60 else f"{words[:60]} …"
                ui.button(f"add the text “{shown}”", icon="notes", on_click=lambda: self._take_text(words)).props(
                    "flat dense align=left no-caps"
                ).classes("w-full")
            for one in found:
                self._draw_one(one)
            if not found:
                muted("No item was found.")

    def _draw_one(self, one: Found) -> None:
        async def take() -> None:
            self.clear()
            # The button that was pressed is gone by now.
            with self._box:
                await self._pick(one)

        name = one.title if one.title == one.id else f"{one.title}  ·  {one.id}"
        ui.button(name, icon="add", on_click=take).props("flat dense align=left no-caps").classes("w-full")
