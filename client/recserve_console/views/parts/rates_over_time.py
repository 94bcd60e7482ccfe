"""Rates over time as lines with their intervals as bars, by strategy, variant or position."""

from __future__ import annotations

import math
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
#: Between two groups, as a part of a period.
_APART: Final = 0.08


class RatesOverTime:
    """The chart with what it is drawn by."""

    def __init__(self, found: OutcomeReport) -> None:
        """`found`: with at least one period."""
        self._found = found
        shown = [name for name, field in _BY.items() if getattr(found, field)]
        about = (
            f"Of the answers of {_LENGTHS[found.period_s]} each; the bars are the 95% Wilson intervals. Outcomes of "
            "the last answers may still come."
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
    # Beside each other, so that no interval hides another.
    highest = 0.0
    apart_ms = round(found.period_s * 1000 * _APART)
    for place, (name, colour) in enumerate(zip(names, COLOURS, strict=False)):
        points = [point for period in found.periods if (point := _point(period, by, name, rate)) is not None]
        highest = max([highest, *(rate.high for *_, rate in points)])
        series.append(_line(name[:_NAME], colour, points, place * apart_ms))
        newest.append(series[-1]["data"][-1]["name"])
    return {
        "aria": {"label": {"description": f"{label}; the newest: {'; '.join(newest)}"}},
        "legend": {"data": [name[:_NAME] for name in names], "textStyle": {"color": MUTED}, "type": "scroll", "top": 0},
        "grid": {"left": 56, "right": 12, "top": 36, "bottom": 28},
        "tooltip": {"trigger": "item", "formatter": "{b}"},
        "xAxis": axis(type="time", splitLine={"show": False}),
        # An interval that reaches beyond the axis would not be drawn at all.
        "yAxis": axis(
            type="value", min=0, max=math.ceil(100 * highest), axisLabel={"color": MUTED, "formatter": "{value}%"}
        ),
        "series": series,
    }


def _point(period: Period, by: str, name: str, rate: str) -> tuple[int, Group, Rate] | None:
    """A group in a period: its beginning in milliseconds, the group and its rate; `None` where nothing was shown."""
    group = next((group for group in getattr(period, by) if group.name == name), None)
    if group is None or not group.impressions:
        return None
    return period.start_s * 1000, group, getattr(group, rate)


def _line(name: str, colour: str, points: list[tuple[int, Group, Rate]], later_ms: int) -> dict[str, Any]:
    """The line of a group, with a bar for the interval of each point, drawn so much later."""
    data = [
        {
            "value": [start_ms + later_ms, 100 * (rate.rate or 0.0)],
            "name": f"{name}, {_day(start_ms)}: {rate.rate:.2%} ({rate.low:.2%} to {rate.high:.2%}), {rate.count:,} of "
            f"{group.impressions:,}",
        }
        for start_ms, group, rate in points
    ]
    bars = [
        [{"coord": [start_ms + later_ms, 100 * bound]} for bound in (rate.low, rate.high)]
        for start_ms, _, rate in points
    ]
    thin = {"type": "solid", "width": 1.5, "color": colour}
    return {
        "name": name, "type": "line", "data": data, "symbolSize": 7,
        "lineStyle": {"width": 2, "color": colour}, "itemStyle": {"color": colour},
        "markLine": {"silent": True, "symbol": "none", "lineStyle": thin, "label": {"show": False}, "data": bars},
    }  # fmt: skip


def _day(start_ms: int) -> str:
    return datetime.fromtimestamp(start_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
