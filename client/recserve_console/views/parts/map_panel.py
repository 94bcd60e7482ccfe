"""The map of the catalogue: a dot for each item, coloured by an attribute; it zooms, and a dot opens its item."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

from nicegui import events, ui

from recserve_console.console import Console
from recserve_console.home.catalogue_map import CatalogueMap, catalogue_map
from recserve_console.views.parts.pieces import COLOURS, MUTED, axis, card, chart, muted, told
from recserve_console.views.parts.user_on_map import UserOnMap, user_on_map
from recserve_server_ext.access.scopes import Scope

_HEIGHT: Final = "420px"
_PLAIN: Final = "(one colour)"
#: Values with a colour of their own; the others share one.
_COLOURED: Final = len(COLOURS) - 1
_OTHERS: Final = "other"
#: Length of the value of an item's dot.
_OF_ITEM: Final = 4
_NUMBERS: Final = ["#2c4fb5", "#29a3a3", "#e0b000", "#c23b22"]


class MapPanel:
    """Draws the map, once it is asked for: it reads the vectors of the snapshot."""

    def __init__(self, console: Console, opened: Callable[[str], Awaitable[None]]) -> None:
        """
        Args:
            console: The console, beside a home.
            opened: Called with the id of the item whose dot was chosen.
        """
        self._console, self._opened = console, opened
        self._map: CatalogueMap | None = None
        self._user: UserOnMap | None = None
        with card("Map", "Items by meaning, on the first two principal components. Scroll to zoom, drag to move."):
            with ui.row().classes("w-full items-center gap-3"):
                self._button = ui.button("Draw the map", icon="scatter_plot", on_click=self._read).props("outline")
                self._attribute = ui.select([_PLAIN], label="Colour", value=_PLAIN, on_change=self._draw)
                self._attribute.props("outlined dense").classes("w-56").set_visibility(False)
                self._id = ui.input("User to draw").props("outlined dense clearable autocomplete=off")
                self._id.classes("w-56").on("keydown.enter", self._draw_user)
                self._show = ui.button("Draw the user", icon="person_pin", on_click=self._draw_user).props("outline")
                for one in (self._id, self._show):
                    one.set_visibility(False)
            self._box = ui.column().classes("w-full")

    async def _read(self) -> None:
        """Compute the map of the snapshot that is published now."""
        home = self._console.home
        assert home is not None
        with told():
            await self._console.schema.refresh()
            names = list(dict.fromkeys([self._console.schema.title, *self._console.schema.values]))
            self._map = await asyncio.to_thread(catalogue_map, home, [name for name in names if name])
            self._attribute.set_options([_PLAIN, *self._console.schema.values], value=self._attribute.value)
            self._attribute.set_visibility(True)
            for one in (self._id, self._show):
                one.set_visibility(self._console.visitor.may_look(Scope.USERS_ERASE))
            self._button.set_text("Draw again")
            self._draw()

    async def _draw_user(self) -> None:
        """Draw a user with what is recommended now, or none where the field is empty."""
        home, user = self._console.home, str(self._id.value or "")
        assert home is not None
        with told():
            self._user = await user_on_map(self._console, home, user) if user else None
            self._draw()

    def _draw(self) -> None:
        found = self._map
        if found is None:
            return
        self._box.clear()
        with self._box:
            shown = "all" if found.items == len(found.ids) else f"{len(found.ids):,} drawn at random of all"
            muted(f"{shown} {found.items:,} items; the plane keeps {found.kept:.0%} of the variance").classes("text-xs")
            options = self._options(found)
            if self._user is not None:
                muted(
                    f"Circles: {len(self._user.history)} behaviours by interest; diamond: the user; triangles: "
                    f"{len(self._user.slate.items)} items recommended by {self._user.slate.strategy}"
                ).classes("text-xs")
                options["series"] = [*options["series"], *self._user.series()]
            drawn = chart(options, "Map of the catalogue", _HEIGHT)
            drawn.on_point_click(self._click)

    async def _click(self, event: events.EChartPointClickEventArguments) -> None:
        # A point is [x, y, value, place among the drawn items].
        if self._map is not None and isinstance(event.value, list) and len(event.value) == _OF_ITEM:
            await self._opened(self._map.ids[int(event.value[3])])

    def _options(self, found: CatalogueMap) -> dict[str, Any]:
        name = str(self._attribute.value)
        values = [_value_of(fields.get(name)) for fields in found.fields]
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        base = {
            "grid": {"left": 12, "right": 12, "top": 34, "bottom": 44},
            "xAxis": axis(type="value", scale=True, show=False),
            "yAxis": axis(type="value", scale=True, show=False),
            "dataZoom": [{"type": "inside", "xAxisIndex": 0}, {"type": "inside", "yAxisIndex": 0}],
            "tooltip": {"trigger": "item", "formatter": "{b}"},
        }
        if name != _PLAIN and numbers and len(numbers) * 2 > len(values):
            return base | self._by_number(found, values, min(numbers), max(numbers))
        return base | self._by_kind(found, values if name != _PLAIN else [""] * len(values))

    def _points(self, found: CatalogueMap, values: list[Any], wanted: Callable[[Any], bool]) -> list[dict[str, Any]]:
        title = self._console.schema.title
        return [
            {
                "name": str(found.fields[row].get(title) or found.ids[row])[:80],
                "value": [round(float(found.places[row, 0]), 4), round(float(found.places[row, 1]), 4), value, row],
            }
            for row, value in enumerate(values)
            if wanted(value)
        ]

    def _by_number(self, found: CatalogueMap, values: list[Any], low: float, high: float) -> dict[str, Any]:
        points = self._points(found, values, lambda value: isinstance(value, int | float))
        scale = {
            "min": low,
            "max": high,
            "dimension": 2,
            "text": [f"{high:g}", f"{low:g}"],
            "orient": "horizontal",
            "left": "center",
            "bottom": 0,
            "inRange": {"color": _NUMBERS},
            "textStyle": {"color": MUTED},
        }
        scale["seriesIndex"] = 0
        return {"visualMap": scale, "series": [{"type": "scatter", "symbolSize": 5, "data": points}]}

    def _by_kind(self, found: CatalogueMap, values: list[Any]) -> dict[str, Any]:
        often = [value for value, _ in Counter(map(str, values)).most_common(_COLOURED)]
        kinds = [value if value in often else _OTHERS for value in map(str, values)]
        series = [
            {
                "name": kind or "items",
                "type": "scatter",
                "symbolSize": 5,
                "itemStyle": {"color": COLOURS[place]},
                "data": self._points(found, kinds, kind.__eq__),
            }
            for place, kind in enumerate([*often, *([_OTHERS] if _OTHERS in kinds else [])])
        ]
        return {"legend": {"type": "scroll", "top": 0, "textStyle": {"color": MUTED}}, "series": series}


def _value_of(value: Any) -> Any:
    """The value that an item is coloured by: the first one of a list."""
    if isinstance(value, list):
        return value[0] if value else "(none)"
    return "(none)" if value is None else value
