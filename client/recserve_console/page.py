"""The page: state of the server above, views as tabs below; a view is drawn when it is first looked at."""

from __future__ import annotations

import json
from functools import partial
from typing import Final

from fastapi import Request
from nicegui import app, background_tasks, ui
from nicegui.elements.mixins.text_element import TextElement

from recserve_console import login
from recserve_console.console import Console
from recserve_console.views.catalogue import Catalogue
from recserve_console.views.data import Data
from recserve_console.views.outcomes import Outcomes
from recserve_console.views.overview import Overview
from recserve_console.views.parts.pieces import CSS, age
from recserve_console.views.parts.view import View
from recserve_console.views.requests import Requests
from recserve_console.views.strategies import Strategies
from recserve_console.views.try_out import TryOut
from recserve_console.views.user import User
from recserve_console.visitors import Visitor
from recserve_console.watch.watcher import EVERY_S

#: In the order of the tabs.
_VIEWS: Final[tuple[type[View], ...]] = (Overview, TryOut, User, Catalogue, Strategies)
#: Of these there is nothing without a home.
_OF_HOME: Final[tuple[type[View], ...]] = (Outcomes, Data, Requests)
_PRIMARY: Final = "#1f56b5"


def add_page(console: Console, cookie: str) -> None:
    """Register the page with NiceGUI, and look at the server while it runs.

    Args:
        console: The console.
        cookie: Name of the cookie with the token of a session.
    """
    app.on_startup(lambda: background_tasks.create(console.watcher.run()))
    app.on_shutdown(lambda: console.jobs.stop() if console.jobs is not None else None)

    @ui.page("/", title="recserve console")
    def page(request: Request, view: str = "") -> None:
        visitor = Visitor(console.sessions, request.cookies.get(cookie, ""))
        _Page(console.seen_by(visitor)).build(view)


class _Page:
    """One open page."""

    def __init__(self, console: Console) -> None:
        self._console = console
        kinds = _VIEWS if console.home is None else (*_VIEWS, *_OF_HOME)
        self._views = {kind.name: kind(console) for kind in kinds if console.visitor.may_look(kind.scope)}
        #: Views whose drawing has begun, and those that are drawn.
        self._drawn: set[str] = set()
        self._ready: set[str] = set()
        self._panels: dict[str, ui.tab_panel] = {}
        self._shown = ""

    def build(self, view: str) -> None:
        """Draw the page with a view; with the first one where there is no such view."""
        if not self._views:
            ui.label("This key has no scope that may look at anything.")
            self._draw_session()
            return
        ui.add_css(CSS)
        ui.colors(primary=_PRIMARY, negative="#b3261e", positive="#0a6b46")
        ui.query("html").props("lang=en")
        dark = ui.dark_mode(None)
        with ui.header().classes("items-center gap-3 q-py-xs").props('role="banner"').style(f"background: {_PRIMARY}"):
            TextElement(tag="h1", text="recserve").classes("text-lg font-semibold")
            self._state = ui.label("…").props('role="status" aria-live="polite"').classes("grow text-sm")
            ui.button(icon="contrast", on_click=lambda: dark.set_value(not dark.value)).props(
                'flat round color=white aria-label="Light or dark"'
            )
            self._draw_session()
            with (
                ui.tabs(on_change=lambda event: self.show(event.value))
                .props("dense inline-label no-caps mobile-arrows outside-arrows align=left")
                .classes("w-full") as tabs
            ):
                for one in self._views.values():
                    ui.tab(one.name, label=one.title, icon=one.icon)
        self._banner = ui.label("").props('role="alert"').classes("w-full rs-bad font-semibold q-px-md")
        first = view if view in self._views else next(iter(self._views))
        with ui.element("div").classes("rs-page"):
            panels = ui.tab_panels(tabs, value=first, animated=False).classes("w-full bg-transparent")
        with panels:
            for name in self._views:
                with ui.tab_panel(name).classes("q-pa-none") as panel:
                    self._panels[name] = panel
        self._say_state()
        # When the page is connected: a view may ask a server that is slow, and a page that is not sent in time is lost.
        ui.timer(0, partial(self.show, first), once=True)
        ui.timer(EVERY_S, self._tick)

    def _draw_session(self) -> None:
        """The button that begins or ends a session, where keys are asked for."""
        if self._console.visitor.key is not None:
            leave = "fetch('/logout', {method: 'POST'}).then(() => location.assign('/login'))"
            ui.button("Log out", on_click=lambda: ui.run_javascript(leave)).props("flat dense color=white")
        elif self._console.sessions.asks_for_keys:
            ui.button("Log in", on_click=lambda: ui.navigate.to(login.PATH)).props("flat dense color=white")

    async def show(self, view: str) -> None:
        """Draw a view where it is not drawn yet, and bring it up to date."""
        self._shown = view
        ui.run_javascript(f"history.replaceState(null, '', '?view=' + {json.dumps(view)})")
        if view not in self._drawn:
            self._drawn.add(view)
            with self._panels[view]:
                await self._views[view].build()
            self._ready.add(view)
        await self._refresh()

    async def _tick(self) -> None:
        view = self._views[self._shown] if self._shown else None
        if view is not None and not self._console.visitor.may_look(view.scope):
            # The session or its key has ended while the page was open.
            ui.navigate.to(login.PATH)
            return
        self._say_state()
        await self._refresh()

    async def _refresh(self) -> None:
        """Bring the view that is shown up to date, once it is drawn."""
        if self._shown in self._ready:
            await self._views[self._shown].refresh()

    def _say_state(self) -> None:
        watcher = self._console.watcher
        words = {None: "looking …", True: "is well", False: "does not recommend"}[watcher.is_well]
        self._state.set_text(f"{self._console.address} {words}")
        is_away = watcher.is_well is False
        since = f"it last did {age(watcher.well_s)}" if watcher.well_s else "it has not since this console was opened"
        self._banner.set_text(f"The server does not recommend; {since}: {watcher.fault}" if is_away else "")
        self._banner.set_visibility(is_away)
