"""Requests: the newest logged answers, without their users, and what was changed through the console."""

from __future__ import annotations

import asyncio
from functools import partial

from nicegui import ui

from recserve_console.home.log import Answer, has_log, newest_answers
from recserve_console.views.parts.pieces import card, heading, moment, muted, table, told
from recserve_console.views.parts.view import View
from recserve_server_ext.common.errors import ServerError

_ANSWERS = 200
_CHANGES = 50
_ITEMS = 5


class Requests(View):
    """The newest answers and changes; only beside a home."""

    name, title, icon = "requests", "Requests", "list_alt"

    async def build(self) -> None:
        """See `View.build`."""
        with ui.row().classes("w-full items-center"):
            heading("Requests").classes("grow")
            ui.button("Read again", icon="refresh", on_click=self._read).props("flat")
        self._names: dict[str, str] = {}
        self._content = ui.column().classes("w-full gap-3 q-mt-sm")
        await self._read()

    async def _read(self) -> None:
        home, audit = self.console.home, self.console.audit
        assert home is not None
        assert audit is not None
        try:
            found = await asyncio.to_thread(newest_answers, home, _ANSWERS) if has_log(home) else []
        except ServerError as error:
            with self._content:
                ui.label(str(error)).classes("rs-bad")
            return
        await self._name_items(found)
        self._content.clear()
        with self._content:
            with card("Logged answers", f"The newest {_ANSWERS}, without their users."):
                rows = [
                    (
                        moment(one.time_s),
                        one.strategy,
                        "by id" if one.has_user else "history",
                        partial(self._draw_items, one),
                        one.revision,
                    )
                    for one in found
                ]
                if rows:
                    table(
                        ("time (UTC)", "strategy", "asked", "items", "revision"),
                        rows,
                        right=("revision",),
                        label="Answers",
                    )
                else:
                    muted("No answer was logged yet.")
            with card("Changes through this console", f"The audit log: {audit.path}"), told():
                changes = [(one.time, one.action, one.what, one.outcome) for one in audit.newest(_CHANGES)]
                if changes:
                    table(("time (UTC)", "action", "what", "outcome"), changes, label="Changes")
                else:
                    muted("Nothing was changed yet.")

    async def _name_items(self, found: list[Answer]) -> None:
        """Read the titles of the items that are shown, where the server answers."""
        ids = list(dict.fromkeys(item for one in found for item in one.items[:_ITEMS]))
        with told():
            await self.console.schema.refresh()
            title = self.console.schema.title
            items = (await self.console.client.items.get(ids)).items if ids else []
            self._names = {item.id: item.texts.get(title) or item.id for item in items}

    def _draw_items(self, one: Answer) -> None:
        more = f" and {len(one.items) - _ITEMS} more" if len(one.items) > _ITEMS else ""
        ui.label(", ".join(self._names.get(item, item) for item in one.items[:_ITEMS]) + more)
        if one.variants:
            muted(", ".join(f"{name}: {variant}" for name, variant in one.variants.items())).classes("text-xs")
