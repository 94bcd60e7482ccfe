"""Requests: the newest logged answers with their walks, the newest refusals, and what was changed here."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from nicegui import ui

from recserve_client.contract import ErrorKind
from recserve_console.home.log import Answer, has_log, newest_answers, newest_refusals
from recserve_console.views.parts.pieces import card, close_button, heading, moment, muted, table, told
from recserve_console.views.parts.view import View
from recserve_console.views.parts.walks import draw_walk_again
from recserve_server_ext.access.scopes import Scope
from recserve_server_ext.common.errors import ServerError
from recserve_server_ext.services.refusals import Refusal

_ANSWERS: Final = 200
_CHANGES: Final = 50
_ITEMS: Final = 5
#: How far a refused request came; the others were refused when they were read.
_CAME_TO: Final[Mapping[ErrorKind, str]] = {
    ErrorKind.UNAUTHENTICATED: "key",
    ErrorKind.PERMISSION_DENIED: "key",
    ErrorKind.OVERLOADED: "queue",
    ErrorKind.STALE_REVISION: "queue",
    ErrorKind.UNKNOWN_ITEM: "profile",
    ErrorKind.EMPTY_HISTORY: "profile",
    ErrorKind.ZERO_WEIGHTS: "profile",
    ErrorKind.VECTORS_CANCEL: "profile",
    ErrorKind.UNAVAILABLE: "encoder or store",
    ErrorKind.INTERNAL: "a fault",
}


class Requests(View):
    """The newest answers, refusals and changes; only beside a home."""

    name, title, icon = "requests", "Requests", "list_alt"
    scope = Scope.ADMIN

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
            refused = await asyncio.to_thread(newest_refusals, home, _ANSWERS)
        except (ServerError, OSError, ValueError) as error:
            with self._content:
                ui.label(str(error)).classes("rs-bad")
            return
        await self._name_items(found)
        self._content.clear()
        with self._content:
            self._draw_answers(found)
            self._draw_refusals(refused)
            with card("Changes through this console", f"The audit log: {audit.path}"), told():
                changes = [(one.time, one.action, one.what, one.outcome, one.by) for one in audit.newest(_CHANGES)]
                if changes:
                    table(("time (UTC)", "action", "what", "outcome", "key"), changes, label="Changes")
                else:
                    muted("Nothing was changed yet.")

    def _draw_answers(self, found: Sequence[Answer]) -> None:
        about = (
            f"The newest {_ANSWERS}, without their users. Of requests with a history, the share that the setting plain "
            "of [users.log] says: none by default."
        )
        with card("Logged answers", about):
            rows = [
                (
                    moment(one.time_s),
                    partial(self._draw_walk_button, one),
                    one.strategy,
                    "by id" if one.has_user else "history",
                    one.revision,
                    partial(self._draw_items, one),
                )
                for one in found
            ]
            if rows:
                columns = ("time (UTC)", "walk", "strategy", "asked", "revision", "items")
                table(columns, rows, right=("revision",), label="Answers")
            else:
                muted("No answer was logged yet.")

    def _draw_refusals(self, refused: Sequence[Refusal]) -> None:
        about = (
            f"The newest {_ANSWERS} since the server began, of all models. Values that a message quotes are left out: "
            "they may name a user."
        )
        with card("Refusals", about):
            rows = [
                (
                    moment(one.time),
                    one.model,
                    one.kind.value.replace("_", " "),
                    _CAME_TO.get(one.kind, "request"),
                    one.text,
                )
                for one in refused
            ]
            if rows:
                table(("time (UTC)", "model", "kind", "came to", "message"), rows, label="Refusals")
            else:
                muted("No request was refused.")

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

    def _draw_walk_button(self, one: Answer) -> None:
        ui.button("Walk", on_click=partial(self._open_walk, one)).props("flat dense")

    async def _open_walk(self, one: Answer) -> None:
        """Show how the stages answer that request now."""
        with ui.dialog().props('aria-label="Walk"') as dialog, ui.card().classes("w-full max-w-3xl"):
            heading("The walk of this request")
            muted(f"Answered {moment(one.time_s)} (UTC) by {one.strategy} at revision {one.revision}.")
            walked = ui.column().classes("w-full gap-2").props('aria-live="polite"')
            close_button(dialog)
        dialog.open()
        with walked, told():
            await draw_walk_again(
                self.console.client, one.id, {item: self._names.get(item, item) for item in one.items}
            )
