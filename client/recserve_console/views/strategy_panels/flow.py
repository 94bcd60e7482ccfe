"""The flow of requests through the stages as a picture: a lane for each strategy, counts and times on its arrows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nicegui import ui

from recserve_client.contract.recommend import STAGES
from recserve_console.views.parts.pieces import muted
from recserve_console.watch.stages import StrategyTimes

#: Thickness of arrows in pixels: of one that takes no time, and what one that takes all the time has more.
_THIN: Final = 2
_MORE: Final = 12


def draw_flow(times: Sequence[StrategyTimes]) -> None:
    """Draw the lanes into the current place."""
    if not times:
        muted("Nothing was recommended yet.")
    for one in times:
        _draw_lane(one)


def _draw_lane(one: StrategyTimes) -> None:
    whole_ms = sum(time.mean_ms for time in one.stages.values())
    with ui.element("div").classes("rs-flow").props('role=group aria-label="Flow of a strategy"'):
        cold = f", {one.cold:,} cold" if one.cold else ""
        _node(one.strategy, f"{one.slates:,} slates{cold}")
        for stage in STAGES:
            time = one.stages.get(stage)
            if time is None:
                _arrow("none", "", 0.0)
            else:
                about = f"{time.mean_ms:.2f} ms, p99 {time.p99_ms:.2f}"
                _arrow(f"{time.slates:,}", about, time.mean_ms / whole_ms if whole_ms else 0.0)
            _node(stage)
        _arrow(f"{one.slates:,}", f"{whole_ms:.2f} ms", 0.0)
        _node("slate")


def _node(name: str, about: str = "") -> None:
    with ui.element("div").classes("rs-node"):
        ui.label(name).classes("font-semibold")
        if about:
            muted(about).classes("text-xs")


def _arrow(count: str, about: str, share: float) -> None:
    with ui.element("div").classes("rs-arrow"):
        ui.label(count)
        ui.element("div").classes("rs-shaft").style(f"--shaft: {_THIN + _MORE * share:.1f}px").props("aria-hidden=true")
        muted(about)
