"""Overview: whether the server is well, its load and waits over time, what it serves and how old that is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from nicegui import ui

from recserve_console.home.state import HomeState, home_state
from recserve_console.views.parts.pieces import (
    COLOURS,
    MUTED,
    NONE,
    age,
    axis,
    card,
    chart,
    heading,
    muted,
    number,
    size,
    table,
    tile,
)
from recserve_console.views.parts.view import View
from recserve_console.watch.watcher import Look, together

_HOME_EVERY_S: Final = 20.0
_SPANS: Final = {"5 min": 5, "1 h": 60, "24 h": 24 * 60}

_HIGH: Final = "p99"
_Of = Callable[[Look], float | None]
#: Charts: name, and the lines with what they show of a look.
_CHARTS: Final[tuple[tuple[str, tuple[tuple[str, _Of], ...]], ...]] = (
    ("Users a second", (("users/s", lambda look: look.users_per_s),)),
    ("Recommendation, ms", (("p50", lambda look: look.p50_ms), (_HIGH, lambda look: look.p99_ms))),
    ("Queue, ms", (("wait", lambda look: look.queue_ms),)),
    ("Refused a second", (("refused", lambda look: look.shed_per_s),)),
)


class Overview(View):
    """The first view."""

    name, title, icon = "overview", "Overview", "monitor_heart"

    async def build(self) -> None:
        """See `View.build`."""
        self._home: HomeState | None = None
        self._home_read_s = float("-inf")
        self._told: list[str] | None = None
        self._tiles: dict[str, ui.label] = {}
        heading("Overview")
        self._alerts = ui.column().classes("w-full gap-1").props('aria-live="polite"')
        with ui.element("div").classes("grid grid-cols-2 md:grid-cols-4 gap-3 w-full q-my-sm"):
            self._tile("users/s", "probes among them")
            self._tile("p50", "real inferences of 5 min")
            self._tile("p99", "real inferences of 5 min")
            self._tile("refused/s", "for load, the last look")
            self._tile("queue", "mean wait, the last look")
            self._tile("items", "of the snapshot")
            self._tile("memory", "of the server's processes")
            self._tile("disk", "files of the home")
        with card("Over time"):
            self._span = ui.toggle(list(_SPANS), value="5 min", on_change=self._draw_charts).props("no-caps dense")
            self._charts: list[ui.echart] = []
            with ui.element("div").classes("grid grid-cols-1 md:grid-cols-2 gap-3 w-full"):
                for name, lines in _CHARTS:
                    self._charts.append(chart(_time_chart(name, [line for line, _ in lines]), name))
        with ui.column().classes("w-full gap-3 q-mt-md"):
            with card(
                "Models",
                "What each did between the last two looks; times are means. A process that began anew was restarted.",
            ):
                self._models = ui.column().classes("w-full")
            with card("What is served"):
                self._served = ui.column().classes("w-full")

    def _tile(self, name: str, about: str) -> None:
        self._tiles[name] = tile(name, about)

    async def refresh(self) -> None:
        """See `View.refresh`."""
        home = self.console.home
        if home is not None and time.monotonic() - self._home_read_s > _HOME_EVERY_S:
            self._home_read_s = time.monotonic()
            try:
                self._home = await asyncio.to_thread(home_state, home)
            except OSError:
                self._home = None
        self._fill_tiles()
        self._draw_charts()
        # Only where they changed: they are read out to who cannot see them.
        if (alerts := self._found_alerts()) != self._told:
            self._told = alerts
            self._fill(self._alerts, partial(self._draw_alerts, alerts))
        self._fill(self._models, self._draw_models)
        self._fill(self._served, self._draw_served)

    def _fill(self, box: ui.column, draw: Callable[[], None]) -> None:
        box.clear()
        with box:
            draw()

    def _fill_tiles(self) -> None:
        watcher, home = self.console.watcher, self._home
        last = watcher.recent[-1] if watcher.recent else Look(0.0, False)
        minutes = together(watcher.recent) if watcher.recent else last
        page = watcher.page
        figures = {
            "users/s": number(last.users_per_s, 1),
            "p50": _ms(minutes.p50_ms),
            "p99": _ms(minutes.p99_ms),
            "refused/s": number(last.shed_per_s, 1),
            "queue": _ms(last.queue_ms),
            "items": NONE if page is None else number(page.total("recserve_catalogue_snapshot_items")),
            "memory": NONE if home is None or not home.memory_bytes else size(home.memory_bytes),
            "disk": NONE if home is None else f"{size(home.bytes)}",
        }
        for name, value in figures.items():
            self._tiles[name].set_text(value)

    def _draw_alerts(self, alerts: list[str]) -> None:
        for alert in alerts:
            with ui.row().classes("items-center gap-2 no-wrap rs-bad"):
                ui.icon("warning").props("aria-hidden=true")
                ui.label(alert)
        if not alerts:
            ui.label("Nothing to worry about: it makes real recommendations.").classes("rs-good")

    def _found_alerts(self) -> list[str]:
        watcher, page, home = self.console.watcher, self.console.watcher.page, self._home
        found = ["Looking at the server …"] if watcher.is_well is None else []
        if watcher.is_well is False:
            found.append(f"No recommendation can be made: {watcher.fault}")
        if watcher.metrics_fault:
            found.append(f"No metrics: {watcher.metrics_fault}")
        if page is not None:
            if page.total("recserve_catalogue_revision_lag") > 0:
                found.append("Changes of the catalogue are committed and not served yet")
            if lost := page.total("recserve_answers_lost_total"):
                found.append(f"{lost:,.0f} answers were not logged")
            named = page.total("recserve_log_interactions")
            if named and page.total("recserve_log_known_interactions") < named / 2:
                found.append("Most interactions name items that the catalogue lacks: do the ids agree?")
        if watcher.recent and (watcher.recent[-1].shed_per_s or 0) > 0:
            found.append("Requests are refused: more is asked than can be answered in time")
        if home is not None:
            if home.free_bytes < home.total_bytes / 20:
                found.append(f"The disk is nearly full: {size(home.free_bytes)} are free")
            found.extend(f"{one.space} {one.version} is damaged: {one.fault}" for one in home.spaces if one.fault)
        return found

    def _draw_charts(self) -> None:
        watcher, minutes = self.console.watcher, _SPANS[str(self._span.value)]
        is_recent = minutes == _SPANS["5 min"]
        looks = list(watcher.recent) if is_recent else list(watcher.minutes)[-minutes:]
        for place, (_, lines) in zip(self._charts, _CHARTS, strict=True):
            for line, (_, of) in zip(place.options["series"], lines, strict=True):
                # A look has one inference, so its quantiles are the same.
                shown = [] if is_recent and line["name"] == _HIGH else looks
                line["data"] = [[look.time_s * 1000, _short(of(look))] for look in shown]
            place.update()

    def _draw_models(self) -> None:
        watcher = self.console.watcher
        loads = watcher.loads
        if not loads:
            muted("No metrics yet.")
            return
        rows = [
            (
                load.model,
                number(load.answered_per_s, 1),
                number(load.failed_per_s, 1),
                number(load.queue_ms, 1),
                number(load.work_ms, 1),
                number(load.pending),
                age(watcher.seen[load.model].last_s),
                NONE if self._home is None else age(self._home.began_s.get(load.model)),
            )
            for load in loads
        ]
        columns = (
            "model", "answered/s", "failed/s", "queue ms", "work ms", "waiting", "last inference", "process began",
        )  # fmt: skip
        table(columns, rows, right=columns[1:], label="Models")

    def _draw_served(self) -> None:
        watcher, home = self.console.watcher, self._home
        slate, page = watcher.slate, watcher.page
        made_s = page.total("recserve_catalogue_snapshot_created_timestamp_seconds") if page is not None else None
        rows = [
            ("encoder", NONE if slate is None else slate.encoder, ""),
            ("catalogue", NONE if slate is None else f"revision {slate.revision:,}", ""),
            ("snapshot", NONE if home is None else home.snapshot, age(made_s)),
        ]
        if page is not None:
            changed = page.total("recserve_catalogue_delta_items")
            rows.append(("changed since the snapshot", f"{changed:,.0f} items", ""))
            rows.append(("interactions in the log", number(page.total("recserve_log_interactions")), ""))
        if home is not None:
            rows.extend((f"space {one.space}", one.version, age(one.made_s)) for one in home.spaces if one.is_current)
            rows.append(("disk", f"{size(home.free_bytes)} free of {size(home.total_bytes)}", ""))
        table(("what", "version", "age"), rows, label="What is served")
        if home is None:
            muted("Open the console beside the server's home to see its snapshot, spaces, disk and memory.")


def _time_chart(name: str, lines: list[str]) -> dict[str, Any]:
    series = [
        {
            "name": line,
            "type": "line",
            "showSymbol": False,
            "data": [],
            "lineStyle": {"width": 2, "color": colour},
            "itemStyle": {"color": colour},
        }
        for line, colour in zip(lines, COLOURS, strict=False)
    ]
    return {
        "title": {"text": name, "textStyle": {"fontSize": 13, "color": MUTED}, "left": 0, "top": 0},
        "legend": {"show": len(lines) > 1, "right": 0, "top": 0, "textStyle": {"color": MUTED}},
        "tooltip": {"trigger": "axis"},
        "xAxis": axis(type="time", splitLine={"show": False}),
        "yAxis": axis(type="value", min=0),
        "series": series,
    }


def _ms(value: float | None) -> str:
    return NONE if value is None else f"{value:,.1f} ms"


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
