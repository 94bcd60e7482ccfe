"""Rates over time as lines with their intervals as bands, by strategy, variant or position."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from nicegui import ui

from recserve_console.views.parts.pieces import COLOURS, MUTED, axis, card, chart

if TYPE_CHECKING:
    from recserve_export.outcomes.report import Group, OutcomeReport, Period, Rate

#: What groups are made by, and the field of a period.
_BY: Final = {"Strategy": "strategies", "Variant": "variants", "Position": "positions"}
_RATES: Final = {"Clicks": "clicks", "Conversions": "conversions"}
#: Groups that are drawn: those with the most impressions.
_DRAWN: Final = 6
_LENGTHS: Final = {3600: "an hour", 86_400: "a day", 7 * 86_400: "a week", 28 * 86_400: "four weeks"}
_NAME: Final = 40


class RatesOverTime:
    """The chart with what it is drawn by."""

    def __init__(self, found: OutcomeReport) -> None:
        """`found`: with at least one period."""
        self._found = found
        shown = [name for name, field in _BY.items() if getattr(found, field)]
        about = (
            f"Of the answers of {_LENGTHS[found.period_s]} each; the band is the 95% Wilson interval. Outcomes of the "
            "last answers may still come."
        )
        with card("Over time", about):
            with ui.row().classes("items-center gap-3"):
                self._by = ui.toggle(shown, value=shown[0], on_change=self._draw).props("no-caps dense")
                self._rate = ui.toggle(list(_RATES), value="Clicks", on_change=self._draw).props("no-caps dense")
            self._box = ui.column().classes("w-full")
        self._draw()

    def _draw(self) -> None:
        by, rate = str(self._by.value), str(self._rate.value)
        self._box.clear()
        with self._box:
            label = f"{rate} by {by.lower()} over time"
            chart(rates_chart(self._found, _BY[by], _RATES[rate], label), label, "320px")


def rates_chart(found: OutcomeReport, by: str, rate: str, label: str) -> dict[str, Any]:
    """Options of the chart.

    Args:
        found: The report.
        by: Field of a period: `strategies`, `variants` or `positions`.
        rate: Field of a group: `clicks` or `conversions`.
        label: What it shows, for who cannot see it.
    """
    groups: list[Group] = getattr(found, by)
    most = sorted(groups, key=lambda group: -group.impressions)[:_DRAWN]
    names = [group.name for group in groups if group in most]
    series: list[dict[str, Any]] = []
    newest = []
    for name, colour in zip(names, COLOURS, strict=False):
        points = [point for period in found.periods if (point := _point(period, by, name, rate)) is not None]
        lines = _line(name[:_NAME], colour, points)
        newest.append(lines[0]["data"][-1]["name"])
        series.extend(lines)
    return {
        "aria": {"label": {"description": f"{label}; the newest: {'; '.join(newest)}"}},
        "legend": {"data": [name[:_NAME] for name in names], "textStyle": {"color": MUTED}, "type": "scroll", "top": 0},
        "grid": {"left": 56, "right": 12, "top": 36, "bottom": 28},
        "tooltip": {"trigger": "item", "formatter": "{b}"},
        "xAxis": axis(type="time", splitLine={"show": False}),
        "yAxis": axis(type="value", min=0, axisLabel={"color": MUTED, "formatter": "{value}%"}),
        "series": series,
    }


def _point(period: Period, by: str, name: str, rate: str) -> tuple[int, Group, Rate] | None:
    """A group in a period: its beginning in milliseconds, the group and its rate; `None` where nothing was shown."""
    group = next((group for group in getattr(period, by) if group.name == name), None)
    if group is None or not group.impressions:
        return None
    return period.start_s * 1000, group, getattr(group, rate)


def _line(name: str, colour: str, points: list[tuple[int, Group, Rate]]) -> list[dict[str, Any]]:
    """The line of a group, and its band: the lower bound, which is not drawn, and what lies above it."""
    drawn = [
        {
            "value": [start_ms, 100 * (rate.rate or 0.0)],
            "name": f"{name}, {_day(start_ms)}: {rate.rate:.2%} ({rate.low:.2%} to {rate.high:.2%}), {rate.count:,} of "
            f"{group.impressions:,}",
        }
        for start_ms, group, rate in points
    ]
    line = {"name": name, "type": "line", "data": drawn, "symbolSize": 7, "z": 3}
    line |= {"lineStyle": {"width": 2, "color": colour}, "itemStyle": {"color": colour}}
    band = {"type": "line", "stack": name, "symbol": "none", "silent": True, "lineStyle": {"opacity": 0}}
    low = band | {"data": [[start_ms, 100 * rate.low] for start_ms, _, rate in points]}
    high = band | {
        "data": [[start_ms, 100 * (rate.high - rate.low)] for start_ms, _, rate in points],
        "areaStyle": {"color": colour, "opacity": 0.18},
    }
    return [line, low, high]


def _day(start_ms: int) -> str:
    return datetime.fromtimestamp(start_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
