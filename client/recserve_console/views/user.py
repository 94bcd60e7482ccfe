"""User: what one did over time and how it is weighed, recommendations, what was answered, export and erasure."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec
from nicegui import ui

from recserve_client.contract import UserExport, UserHistory, Walk
from recserve_client.results import behaviours_of
from recserve_console.console import Console
from recserve_console.home.catalogue_map import CatalogueMap, catalogue_map
from recserve_console.views.parts.finder import titles_of
from recserve_console.views.parts.pieces import (
    COLOURS,
    MUTED,
    axis,
    card,
    chart,
    confirm,
    heading,
    moment,
    muted,
    say,
    table,
    told,
)
from recserve_console.views.parts.slates import draw_slate, history_legend
from recserve_console.views.parts.user_on_map import UserOnMap, user_on_map
from recserve_console.views.parts.view import View
from recserve_server_ext.access.scopes import Scope

_SHOWN: Final = 50
_ANSWERS: Final = 20
_GET: Final = 500


class User(View):
    """The third view."""

    name, title, icon = "user", "User", "person"
    scope = Scope.USERS_ERASE

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._user = ""
        self._names: dict[str, str] = {}

    async def build(self) -> None:
        """See `View.build`."""
        heading("User")
        muted("Only a keyed hash of a user id is stored, so users cannot be listed: give the id.")
        with ui.row().classes("w-full items-center gap-2 q-my-sm"):
            self._input = ui.input("User id").props("outlined dense clearable autocomplete=off")
            self._input.classes("grow").on("keydown.enter", self._open)
            ui.button("Open", icon="search", on_click=self._open)
        self._content = ui.column().classes("w-full gap-3")

    async def _open(self) -> None:
        """Read what is known of the user and draw it."""
        user = str(self._input.value or "")
        if not user:
            return
        with told():
            await self.console.schema.refresh()
            history = await self.console.client.users.history(user)
            stored = await self.console.client.users.export(user)
            await self._name_items(stored)
            self._user = user
            self._content.clear()
            with self._content:
                self._draw(history, stored)

    async def _name_items(self, stored: UserExport) -> None:
        """Read the titles of the items that the user met."""
        ids = list(dict.fromkeys(seen.item for seen in reversed(stored.seen)))[:_GET]
        ids += [item for answer in stored.answers[-_ANSWERS:] for item in answer.items if item not in ids]
        title = self.console.schema.title
        found = await self.console.client.items.get(ids[:_GET]) if ids else None
        self._names = {} if found is None else {item.id: item.texts.get(title) or item.id for item in found.items}

    def _draw(self, history: UserHistory, stored: UserExport) -> None:
        if not stored.interactions and not stored.answers:
            muted("Nothing is stored of this user.")
        with ui.row().classes("w-full gap-2"):
            ui.button("Recommend now", icon="recommend", on_click=self._recommend)
            ui.button("Export", icon="download", on_click=lambda: self._download(stored)).props("outline")
            erase = ui.button("Erase …", icon="delete_forever", on_click=self._ask_to_erase)
            why = self.console.why_not(Scope.USERS_ERASE)
            erase.props("outline color=negative").set_enabled(not why)
            if why:
                muted(why)
        self._slate = ui.column().classes("w-full")
        with card("Interactions", self._about(history, stored)):
            if history.entries:
                chart(self._time_line(history), "Weights of the interactions over time", "260px")
                self._draw_entries(history)
        if self.console.home is not None and history.entries:
            with card("Interests", "Clusters of the history on the map of the catalogue, and what is recommended."):
                ui.button("Draw the interests", icon="scatter_plot", on_click=self._draw_interests).props("outline")
                self._map = ui.column().classes("w-full")
        if stored.answers:
            with card("What was recommended", f"The newest {_ANSWERS} of {len(stored.answers):,} logged answers."):
                self._draw_answers(stored)

    def _about(self, history: UserHistory, stored: UserExport) -> str:
        words = [f"{len(stored.interactions):,} stored, {len(stored.seen):,} items seen; rules {history.rules}"]
        words += [f"{count:,} left out: {reason}" for reason, count in history.left_out.items()]
        return "; ".join(words)

    def _name(self, item: str | None, text: str | None) -> str:
        return f"“{text}”" if item is None else self._names.get(item, item)

    def _time_line(self, history: UserHistory) -> dict[str, Any]:
        """A dot for each interaction: when, and with which weight."""
        kinds = list(dict.fromkeys(entry.type for entry in history.entries))
        series = []
        for place, kind in enumerate(kinds):
            of = [entry for entry in history.entries if entry.type == kind]
            points = [
                {"value": [one.timestamp * 1000, round(one.weight, 4)], "name": self._name(one.item, one.text)[:80]}
                for one in of
            ]
            colour = COLOURS[place % len(COLOURS)]
            series.append(
                {"name": kind, "type": "scatter", "symbolSize": 9, "data": points, "itemStyle": {"color": colour}}
            )
        return {
            "legend": {"textStyle": {"color": MUTED}, "top": 0, "right": 0},
            "xAxis": axis(type="time", splitLine={"show": False}),
            "yAxis": axis(type="value", name="weight"),
            "series": series,
            "tooltip": {"trigger": "item"},
        }

    def _draw_entries(self, history: UserHistory) -> None:
        rows = []
        for entry in history.entries[:_SHOWN]:
            factors = ", ".join(f"{name} {value:.3g}" for name, value in entry.factors.items() if value != 1)
            what = self._name(entry.item, entry.text)
            rows.append((moment(entry.timestamp), entry.type, what, f"{entry.weight:.3g}", factors))
        if len(history.entries) > _SHOWN:
            muted(f"The newest {_SHOWN} of {len(history.entries):,}.")
        columns = ("time (UTC)", "type", "what", "weight", "made of")
        table(columns, rows, right=("weight",), label="Interactions")

    def _draw_answers(self, stored: UserExport) -> None:
        named: dict[str, list[str]] = {}
        for one in stored.interactions:
            if recommendation := one.get("recommendation_id"):
                named.setdefault(recommendation, []).append(f"{one['type']} {self._name(one.get('item'), '')}")
        rows = []
        for answer in reversed(stored.answers[-_ANSWERS:]):
            items = ", ".join(self._name(item, None) for item in answer.items[:5])
            more = f" and {len(answer.items) - 5} more" if len(answer.items) > 5 else ""
            came = ", ".join(named.get(answer.recommendation_id, []))
            rows.append((moment(answer.timestamp), answer.strategy, items + more, came))
        table(("time (UTC)", "strategy", "items", "what came of it"), rows, label="Answers")

    async def _draw_interests(self) -> None:
        """Draw the behaviours by interest over the items."""
        home = self.console.home
        assert home is not None
        with told():
            found = await user_on_map(self.console, home, self._user)
            items = await asyncio.to_thread(catalogue_map, home, [])
            shares = ", ".join(f"interest {place + 1} {share:.0%}" for place, share in enumerate(found.shares))
            self._map.clear()
            with self._map:
                muted(f"{len(found.history)} behaviours: {shares}; recommended by {found.slate.strategy}")
                chart(_map_options(items, found), "Interests on the map", "420px")

    async def _recommend(self) -> None:
        title = self.console.schema.title
        with told():
            fields = [title] if title else []
            # With a walk, so that it does not count as an impression.
            slate = await self.console.client.recommend_for(self._user, k=10, fields=fields, walk=Walk())
            history = behaviours_of(slate)
            self._slate.clear()
            with self._slate, card("Recommended now", f"by {slate.strategy}, from {len(history)} behaviours"):
                names = self._names | titles_of(slate, title)
                history_legend(history, names)
                draw_slate(slate, history, names, title)

    def _download(self, stored: UserExport) -> None:
        ui.download.content(msgspec.json.format(msgspec.json.encode(stored), indent=2), "user.json")

    def _ask_to_erase(self) -> None:
        """Ask for the id once more, then whether it is meant."""
        with ui.dialog() as dialog, ui.card():
            heading("Erase this user?")
            ui.label("All interactions, seen items and logged answers go, and cannot be brought back.")
            again = ui.input("Type the user id again").props("outlined dense autocomplete=off").classes("w-full")

            def check() -> None:
                if again.value != self._user:
                    say("that is another user id")
                    return
                dialog.close()
                confirm("Erase for good?", "This is the last question.", "Erase", self._erase).open()

            with ui.row().classes("w-full justify-end"):
                ui.button("Cancel", on_click=dialog.close).props("flat")
                ui.button("Go on", on_click=check).props("color=negative")
        dialog.open()

    async def _erase(self) -> None:
        with told():
            # Before, so that nothing is done that cannot be written down.
            self.console.record(Scope.USERS_ERASE, "user.erase", "a user", "asked for")
            receipt = await self.console.client.users.erase(self._user)
            self.console.record(Scope.USERS_ERASE, "user.erase", f"receipt {receipt.proof[:16]}")
            packed = msgspec.json.format(msgspec.json.encode(receipt), indent=2)
            self._content.clear()
            with self._content, card("Erased", "Keep this receipt: it does not name the user, and proves the erasure."):
                ui.label(packed.decode()).classes("rs-code w-full")
                ui.button("Save the receipt", icon="download", on_click=lambda: _save(packed)).props("outline")


def _map_options(items: CatalogueMap, found: UserOnMap) -> dict[str, Any]:
    dots = {
        "name": "items", "type": "scatter", "symbolSize": 3, "silent": True,
        "itemStyle": {"color": MUTED, "opacity": 0.4}, "data": items.places.round(4).tolist(),
    }  # fmt: skip
    return {
        "grid": {"left": 12, "right": 12, "top": 34, "bottom": 12},
        "legend": {"type": "scroll", "top": 0, "textStyle": {"color": MUTED}},
        "xAxis": axis(type="value", scale=True, show=False),
        "yAxis": axis(type="value", scale=True, show=False),
        "dataZoom": [{"type": "inside", "xAxisIndex": 0}, {"type": "inside", "yAxisIndex": 0}],
        "tooltip": {"trigger": "item", "formatter": "{b}"},
        "series": [dots, *found.series()],
    }


def _save(packed: bytes) -> None:
    ui.download.content(packed, "receipt.json")
