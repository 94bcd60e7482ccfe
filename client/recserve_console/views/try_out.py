"""Try: a history of items and texts with weights, options, and the slates that follow, redrawn with every change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from nicegui import ui

from recserve_client.calls import filter_of
from recserve_client.contract import Behaviour, RecommendRequest, Slate, Walk
from recserve_client.contract.filters import Contains, Eq, Filter
from recserve_client.contract.slate_options import SlateOptions
from recserve_client.errors import RecserveError
from recserve_client.where import format_where
from recserve_console.views.parts.copies import as_curl, as_json, as_python
from recserve_console.views.parts.finder import Finder, Found
from recserve_console.views.parts.pieces import Slider, card, close_button, heading, muted, say, told
from recserve_console.views.parts.slates import colour_of, draw_slate, history_legend, name_of
from recserve_console.views.parts.view import View
from recserve_console.views.parts.walks import draw_verdict, draw_walk

_DEFAULT: Final = ""
_NONE: Final = "(none)"
_EMPTY: Final = "Add an item or a text to begin."
_MOST: Final = 20
_LONGEST_WEIGHT: Final = 2.0


@dataclass
class _Tried:
    """What is asked for.

    Attributes:
        history: The behaviours.
        names: Titles of its items, by id.
    """

    history: list[Behaviour] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    strategy: str = _DEFAULT
    other: str = _NONE
    where: str = ""
    diversify: float = 0.0
    interests: int = 1
    k: int = 10

    def request(self, strategy: str, title: str) -> RecommendRequest:
        """The request for a strategy; raises RecserveError for a filter that cannot be read."""
        return RecommendRequest(
            list(self.history),
            k=self.k,
            fields=[title] if title else [],
            strategy=strategy,
            where=filter_of(self.where.strip() or None),
            slate=SlateOptions(diversify=self.diversify) if self.diversify else None,
            interests=self.interests,
            on_cold="fallback",
        )


class TryOut(View):
    """The second view."""

    name, title, icon = "try", "Try", "science"

    async def build(self) -> None:
        """See `View.build`."""
        self._tried = _Tried()
        self._asked, self._is_asking = 0, False
        self._strategies: list[str] = []
        heading("Try it out")
        muted("Put items and texts into a history: the slate follows. A negative weight pushes away.")
        with ui.element("div").classes("grid grid-cols-1 md:grid-cols-[2fr_3fr] gap-3 w-full q-mt-sm"):
            with ui.column().classes("w-full gap-3 min-w-0"):
                with card("History"):
                    Finder(
                        self.console, "Find an item, or write a text and press Enter", self._add_item, self._add_text
                    )
                    self._history = ui.column().classes("w-full gap-1")
                with card("Options"):
                    self._draw_options()
            with card("Slate"):
                self._legend = ui.column().classes("w-full")
                self._slates = ui.element("div").classes("w-full").props('aria-live="polite"')
                with ui.row().classes("w-full items-center"):
                    ui.button("Copy as …", icon="content_copy", on_click=self._open_copies).props("flat no-caps")
                    ui.button("Why not …", icon="help_outline", on_click=self._open_walk).props("flat no-caps")
        self._draw_history()
        self._say(_EMPTY)

    async def refresh(self) -> None:
        """See `View.refresh`: strategies and attributes, as soon as the server tells them."""
        if self._strategies or self.console.watcher.is_well is False:
            return
        try:
            served = await self.console.client.strategies()
            await self.console.schema.refresh()
        except RecserveError:
            return
        self._strategies = [one.name for one in served.strategies]
        default = {_DEFAULT: f"the server's default ({served.default})"}
        self._strategy.set_options(default | {name: name for name in self._strategies}, value=self._tried.strategy)
        self._other.set_options([_NONE, *self._strategies], value=self._tried.other)
        self._attribute.set_options(list(self.console.schema.values))

    def _draw_options(self) -> None:
        tried = self._tried
        self._strategy = ui.select({_DEFAULT: "the server's default"}, label="Strategy", value=_DEFAULT)
        self._other = ui.select([_NONE], label="Beside it, to compare", value=_NONE)
        for select, name in ((self._strategy, "strategy"), (self._other, "other")):
            select.bind_value_to(tried, name).on_value_change(self._ask).props("outlined dense").classes("w-full")
        self._where = ui.input("Filter, such as year >= 1990").props("outlined dense debounce=300 clearable")
        self._where.bind_value_to(tried, "where", forward=lambda value: value or "").classes("w-full")
        self._where.on_value_change(self._ask)
        with ui.row().classes("w-full no-wrap gap-2"):
            self._attribute = ui.select([], label="Attribute", with_input=True, on_change=self._offer_values)
            self._value = ui.select([], label="Value", with_input=True, on_change=self._add_condition)
            for select in (self._attribute, self._value):
                select.props("outlined dense").classes("grow min-w-0 basis-0")
        self._slider("Diversity", "diversify", 0.0, 1.0, 0.05)
        self._slider("Interests", "interests", 1, 8, 1)
        self._slider("Items", "k", 1, 50, 1)

    def _slider(self, label: str, name: str, low: float, high: float, step: float) -> None:
        with ui.row().classes("w-full items-center no-wrap gap-3"):
            muted(label).classes("w-20")
            slider = Slider(min=low, max=high, step=step, value=getattr(self._tried, name))
            slider.props(f'label aria-label="{label}"').classes("grow")
            kind = type(low)
            slider.bind_value_to(self._tried, name, forward=lambda value: kind(value or low))
            slider.on_value_change(self._ask)
            ui.label().bind_text_from(self._tried, name, lambda value: f"{value:g}").classes("w-8 tabular-nums")

    def _offer_values(self) -> None:
        values = self.console.schema.values.get(str(self._attribute.value), [])
        self._value.set_options({place: str(value) for place, value in enumerate(values)}, value=None)

    def _add_condition(self) -> None:
        """Put the chosen attribute and value behind the filter."""
        name, place = self._attribute.value, self._value.value
        if name is None or place is None:
            return
        value = self.console.schema.values[name][place]
        condition: Filter = Contains(name, value) if self.console.schema.is_list(name) else Eq(name, value)
        before = str(self._where.value or "").strip()
        self._where.value = f"{before} and {format_where(condition)}" if before else format_where(condition)
        self._value.value = None

    async def _add_item(self, found: Found) -> None:
        self._tried.names[found.id] = found.title
        if all(one.item != found.id for one in self._tried.history):
            await self._add(Behaviour(item=found.id))

    async def _add_text(self, words: str) -> None:
        await self._add(Behaviour(text=words))

    async def _add(self, behaviour: Behaviour) -> None:
        if len(self._tried.history) >= _MOST:
            say(f"{_MOST} behaviours are enough here; remove one first")
            return
        self._tried.history.append(behaviour)
        self._draw_history()
        await self._ask()

    def _draw_history(self) -> None:
        self._history.clear()
        with self._history:
            for place, behaviour in enumerate(self._tried.history):
                self._draw_behaviour(place, behaviour)
            if not self._tried.history:
                muted("Nothing yet.")

    def _draw_behaviour(self, place: int, behaviour: Behaviour) -> None:
        name = name_of(behaviour, self._tried.names)

        async def weigh(event: Any) -> None:
            self._tried.history[place] = msgspec.structs.replace(behaviour, weight=float(event.value))
            shown.set_text(f"{event.value:+.1f}")
            await self._ask()

        async def remove() -> None:
            del self._tried.history[place]
            self._draw_history()
            await self._ask()

        with ui.column().classes("w-full gap-0"):
            with ui.row().classes("w-full items-center no-wrap gap-2"):
                ui.element("span").classes("rs-dot").style(f"background-color: {colour_of(place)}")
                ui.label(name).classes("grow min-w-0").style("overflow-wrap: anywhere")
                ui.button(icon="close", on_click=remove).props('flat round dense aria-label="Remove"')
            with ui.row().classes("w-full items-center no-wrap gap-3 q-pl-md"):
                low, high, step = -_LONGEST_WEIGHT, _LONGEST_WEIGHT, 0.1
                slider = Slider(min=low, max=high, step=step, value=behaviour.weight, on_change=weigh)
                slider.props('aria-label="Weight"').classes("grow")
                shown = ui.label(f"{behaviour.weight:+.1f}").classes("w-10 tabular-nums")

    async def _ask(self) -> None:
        """Ask for the slates; while an answer is awaited, only the newest change is asked for after it."""
        self._asked += 1
        if self._is_asking:
            return
        self._is_asking = True
        try:
            asked = 0
            while asked != self._asked:
                asked = self._asked
                await self._ask_once()
        finally:
            self._is_asking = False

    async def _ask_once(self) -> None:
        tried = self._tried
        if not tried.history:
            self._say(_EMPTY)
            return
        names = [tried.strategy] + ([] if tried.other == _NONE else [tried.other])
        try:
            await self.console.schema.refresh()
            requests = [tried.request(name, self.console.schema.title) for name in names]
            answers = await self.console.client.recommend_many(requests)
        except RecserveError as error:
            answers = [error]
        if tried.history:
            self._draw(names, answers)

    def _say(self, words: str) -> None:
        self._legend.clear()
        self._slates.clear()
        with self._slates:
            muted(words)

    def _draw(self, names: list[str], answers: list[Slate | RecserveError]) -> None:
        slates = [answer for answer in answers if isinstance(answer, Slate)]
        shared: set[str] = set()
        if len(slates) > 1:
            shared = set.intersection(*({item.id for item in slate.items} for slate in slates))
        self._legend.clear()
        with self._legend:
            history_legend(self._tried.history, self._tried.names)
            if len(slates) > 1:
                ui.label(f"{len(shared)} of {len(slates[0].items)} items are in both slates").classes("font-medium")
        self._slates.clear()
        columns = "grid-cols-1 md:grid-cols-2" if len(answers) > 1 else "grid-cols-1"
        with self._slates, ui.element("div").classes(f"grid {columns} gap-4 w-full"):
            for name, answer in zip(names, answers, strict=False):
                with ui.column().classes("w-full gap-1 min-w-0"):
                    self._draw_one(name, answer, shared)

    def _draw_one(self, name: str, answer: Slate | RecserveError, shared: set[str]) -> None:
        if isinstance(answer, RecserveError):
            ui.label(answer.message).classes("rs-bad rs-code")
            return
        timings = answer.timings
        took_us = timings.resolve_us + timings.encode_us + timings.search_us + timings.explain_us
        heading(answer.strategy or name, 3)
        muted(f"revision {answer.revision}, {took_us / 1000:.1f} ms of work, by {timings.engine}").classes("text-xs")
        draw_slate(
            answer,
            self._tried.history,
            self._tried.names,
            self.console.schema.title,
            shared=shared,
            add=lambda item, title: self._add_item(Found(item, title)),
        )

    def _open_walk(self) -> None:
        """Ask for an item, and say why it is or is not in the slate."""
        if not self._tried.history:
            say(_EMPTY)
            return
        with ui.dialog().props('aria-label="Why not"') as dialog, ui.card().classes("w-full max-w-3xl"):
            heading("Why is an item not in the slate?")

            async def explain(found: Found) -> None:
                walked.clear()
                with walked, told():
                    await self._draw_walk(found)

            Finder(self.console, "Find an item to explain", explain)
            walked = ui.column().classes("w-full gap-2").props('aria-live="polite"')
            close_button(dialog)
        dialog.open()

    async def _draw_walk(self, found: Found) -> None:
        request = self._tried.request(self._tried.strategy, self.console.schema.title)
        (answer,) = await self.console.client.recommend_many([msgspec.structs.replace(request, walk=Walk([found.id]))])
        if isinstance(answer, RecserveError):
            raise answer
        if answer.walk is not msgspec.UNSET:
            draw_verdict(answer.walk.items[0], found.title)
            draw_walk(answer.walk)

    def _open_copies(self) -> None:
        try:
            request = self._tried.request(self._tried.strategy, self.console.schema.title)
        except RecserveError as error:
            say(error)
            return
        kinds = {"Python": as_python(request, self.console.address), "curl": as_curl(request), "JSON": as_json(request)}
        with ui.dialog() as dialog, ui.card().classes("w-full max-w-3xl"):
            heading("Copy this request")
            for kind, code in kinds.items():
                with ui.row().classes("w-full items-center"):
                    heading(kind, 3)
                    ui.button("Copy", icon="content_copy", on_click=lambda _, code=code: self._copy(code)).props(
                        "flat dense"
                    )
                ui.label(code).classes("rs-code w-full")
            close_button(dialog)
        dialog.open()

    def _copy(self, code: str) -> None:
        ui.clipboard.write(code)
        say("copied", is_good=True)
