"""Pieces that views share: headings, tiles, tables, charts, errors. All text is set as text, never as markup."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

from recserve_client.errors import RecserveError
from recserve_server_ext.common.errors import ServerError

#: Stands where there is no figure.
NONE: Final = "\N{EN DASH}"
_FEW: Final = 3
_UNITS: Final = ("B", "kB", "MB", "GB", "TB")
#: Grey that can be read on white and on black.
MUTED: Final = "#7b8794"
#: Colours of the behaviours and parts of a score; told apart on white and on black, also without red and green.
COLOURS: Final = ("#2f6fde", "#e08a00", "#0f9b8e", "#c2418c", "#7c58d6", "#8a9a1f", "#d1495b", "#5c7080")

CSS: Final = """
body { font-size: 15px; }
.nicegui-content { padding: 12px; }
.rs-page { max-width: 1180px; margin: 0 auto; width: 100%; }
.rs-h2 { font-size: 1.35rem; font-weight: 600; margin: 0 0 4px; line-height: 1.3; }
.rs-h3 { font-size: 1.05rem; font-weight: 600; margin: 0; line-height: 1.3; }
.rs-muted { color: #52606d; }
.body--dark .rs-muted { color: #b6c2cf; }
.rs-card { border: 1px solid #d5dbe3; border-radius: 10px; padding: 14px; background: #fff; min-width: 0; width: 100%; }
.body--dark .rs-card { border-color: #39424e; background: #1b2027; }
.body--light { background: #f5f7fa; }
.body--dark { background: #12161b; }
.rs-tile { font-variant-numeric: tabular-nums; }
.rs-tile .rs-value { font-size: 1.4rem; font-weight: 600; white-space: nowrap; }
.rs-scroll { overflow-x: auto; width: 100%; }
.rs-table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
.rs-table th { text-align: left; font-weight: 600; padding: 4px 10px 4px 0; border-bottom: 1px solid #9aa5b1; }
.rs-table td { padding: 4px 10px 4px 0; border-bottom: 1px solid rgba(127, 140, 155, .25); }
.rs-table td { overflow-wrap: anywhere; min-width: 5.5rem; }
.rs-table .rs-right { text-align: right; white-space: nowrap; min-width: 0; }
.rs-bar { display: flex; height: 10px; border-radius: 3px; overflow: hidden; background: rgba(127, 140, 155, .22); }
.rs-bar > div { height: 100%; }
.rs-mean { position: absolute; height: 12px; background: #2f6fde; opacity: .45; }
.rs-range { position: absolute; top: 5px; height: 2px; background: #2f6fde; }
.rs-zero { position: relative; height: 12px; min-width: 120px; }
.rs-zero { background: linear-gradient(#7b8794, #7b8794) center / 1px 100% no-repeat; }
.rs-flow { display: flex; align-items: center; width: 100%; padding: 6px 0; font-variant-numeric: tabular-nums; }
.rs-node { border: 1px solid #9aa5b1; border-radius: 8px; padding: 6px 10px; text-align: center; min-width: 0; }
.rs-arrow { flex: 1 1 0; min-width: 0; padding: 0 4px; text-align: center; font-size: 12px; line-height: 1.3; }
.rs-shaft { position: relative; height: var(--shaft); margin: 4px 7px 4px 0; background: #2f6fde; }
.rs-shaft::after { content: ""; position: absolute; left: 100%; top: 50%; transform: translateY(-50%); }
.rs-shaft::after { border: 7px solid transparent; border-right: 0; border-left-color: #2f6fde; }
@media (max-width: 900px) {
  .rs-flow { flex-direction: column; align-items: stretch; }
  .rs-arrow { display: flex; align-items: center; gap: 10px; justify-content: center; min-height: 44px; }
  .rs-arrow > * { flex: 1 1 0; text-align: right; } .rs-arrow > :last-child { text-align: left; }
  .rs-arrow > .rs-shaft { flex: none; width: var(--shaft); height: auto; align-self: stretch; margin: 0 0 7px; }
  .rs-shaft::after { left: 50%; top: 100%; transform: translateX(-50%); }
  .rs-shaft::after { border: 7px solid transparent; border-bottom: 0; border-top-color: #2f6fde; }
}
.rs-minus { background-image: repeating-linear-gradient(45deg, rgba(255,255,255,.65) 0 3px, transparent 3px 6px); }
.rs-good { color: #0a6b46; } .body--dark .rs-good { color: #5fd39f; }
.rs-bad { color: #b3261e; } .body--dark .rs-bad { color: #ff9d92; }
.rs-code { white-space: pre-wrap; overflow-wrap: anywhere; font-family: monospace; font-size: 13px; }
.rs-dot { width: 10px; height: 10px; border-radius: 50%; display: inline-block; flex: none; }
h1, h2, h3, .nicegui-label { overflow-wrap: anywhere; }
.q-btn { text-transform: none; }
.q-btn .justify-start { text-align: left; flex-wrap: nowrap; }
.rs-page .q-field { min-width: 0; }
.body--dark { --q-primary: #8ab6ff !important; --q-negative: #ff9d92 !important; }
.body--dark .bg-primary { --q-primary: #1f56b5; }
.body--dark .bg-negative { --q-negative: #b3261e; }
.body--dark .bg-positive { --q-positive: #0a6b46; }
.rs-fixed { min-width: 34rem; }
.q-dialog__backdrop { z-index: auto !important; }
@media (prefers-reduced-motion: reduce) { * { transition: none !important; animation: none !important; } }
:focus-visible { outline: 2px solid #2f6fde; outline-offset: 2px; }
"""


def heading(text: str, level: int = 2) -> TextElement:
    """A heading."""
    return TextElement(tag=f"h{level}", text=text).classes(f"rs-h{level}")


def muted(text: str) -> ui.label:
    """Text of less weight."""
    return ui.label(text).classes("rs-muted")


@contextmanager
def card(title: str = "", about: str = "") -> Iterator[ui.column]:
    """A framed part of a view."""
    with ui.column().classes("rs-card gap-2") as box:
        if title:
            heading(title, 3)
        if about:
            muted(about)
        yield box


def tile(name: str, about: str = "") -> ui.label:
    """A figure with its name; returns the label of the figure."""
    with ui.column().classes("rs-card rs-tile gap-0"):
        muted(name)
        value = ui.label(NONE).classes("rs-value")
        if about:
            muted(about).classes("text-xs")
    return value


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, right: Sequence[str] = (), label: str = "") -> None:
    """A table; a cell that is callable draws itself."""
    box = ui.element("div").classes("rs-scroll").props(f'tabindex=0 role=region aria-label="{_plain(label)}"')
    # With many columns it scrolls by itself where the page is narrow.
    with box, ui.element("table").classes("rs-table rs-fixed" if len(columns) > _FEW else "rs-table"):
        with ui.element("thead"), ui.element("tr"):
            for name in columns:
                head = TextElement(tag="th", text=name).props("scope=col")
                head.classes("rs-right" if name in right else "")
        with ui.element("tbody"):
            for row in rows:
                with ui.element("tr"):
                    for name, cell in zip(columns, row, strict=True):
                        _cell(cell, "rs-right" if name in right else "")


def _cell(cell: Any, classes: str) -> None:
    if callable(cell):
        with ui.element("td").classes(classes):
            cell()
    else:
        TextElement(tag="td", text=str(cell)).classes(classes)


def _plain(text: str) -> str:
    """Text that fits into a quoted property."""
    return "".join(one for one in text if one.isalnum() or one in " -+,.:") or "table"


def bar(shares: Sequence[tuple[float, str]], label: str) -> ui.element:
    """A bar of parts; each has its share of the whole width and a colour, and is hatched where it is negative."""
    with ui.element("div").classes("rs-bar w-full").props(f'role=img aria-label="{_plain(label)}"') as box:
        for share, colour in shares:
            part = ui.element("div").style(f"width: {min(abs(share), 1) * 100:.2f}%; background-color: {colour}")
            if share < 0:
                part.classes("rs-minus")
    return box


def interval(mean: float, low: float, high: float, scale: float) -> None:
    """A mean as a bar, with its interval as a line across."""
    left, width = max(low, 0) / scale * 100, max(high - max(low, 0), 0) / scale * 100
    with ui.element("div").style("position: relative; height: 12px; min-width: 120px").props("aria-hidden=true"):
        ui.element("div").classes("rs-mean").style(f"width: {mean / scale * 100:.2f}%")
        ui.element("div").classes("rs-range").style(f"left: {left:.2f}%; width: {width:.2f}%")


def around_zero(mean: float, low: float, high: float, scale: float) -> None:
    """A difference as a bar from the middle, with its interval as a line across; `scale` reaches the edges."""
    at = {value: 50 + 50 * max(-1.0, min(value / scale, 1.0)) for value in (0.0, mean, low, high)}
    with ui.element("div").classes("rs-zero").props("aria-hidden=true"):
        left, width = min(at[0.0], at[mean]), abs(at[mean] - at[0.0])
        ui.element("div").classes("rs-mean").style(f"left: {left:.2f}%; width: {width:.2f}%")
        ui.element("div").classes("rs-range").style(f"left: {at[low]:.2f}%; width: {at[high] - at[low]:.2f}%")


def chart(options: dict[str, Any], label: str, height: str = "200px") -> ui.echart:
    """A chart; its tooltips are drawn on the canvas, so that a title in them cannot be markup."""
    base: dict[str, Any] = {
        "animation": False,
        "textStyle": {"color": MUTED},
        "grid": {"left": 48, "right": 12, "top": 28, "bottom": 28},
        "tooltip": {"renderMode": "richText", "confine": True},
        "aria": {"enabled": True},
    }
    for name, value in options.items():
        base[name] = {**base[name], **value} if isinstance(base.get(name), dict) and isinstance(value, dict) else value
    return ui.echart(base).classes("w-full").style(f"height: {height}").props(f'role=img aria-label="{_plain(label)}"')


class Slider(ui.slider):
    """A slider that moves at once. NiceGUI's own waits for the server, so that fast keys are lost on a slow network."""

    LOOPBACK = False


def axis(**more: Any) -> dict[str, Any]:
    """An axis whose labels and lines can be read on white and on black."""
    lines = {"lineStyle": {"color": MUTED}}
    return {
        "axisLabel": {"color": MUTED, "hideOverlap": True},
        "axisLine": lines,
        "axisTick": lines,
        "splitLine": {"lineStyle": {"color": "rgba(127, 140, 155, .25)"}},
        "nameTextStyle": {"color": MUTED},
        **more,
    }


def waiting(what: str) -> None:
    """Say that something takes a while."""
    with ui.row().classes("items-center gap-2").props('role="status"'):
        ui.spinner(size="1.2em")
        muted(what)


def say(error: Exception | str, *, is_good: bool = False) -> None:
    """Tell the person in a passing line."""
    message = error.message if isinstance(error, RecserveError) else str(error)
    ui.notify(message[:500], type="positive" if is_good else "negative", multi_line=True, timeout=6000)


@contextmanager
def told() -> Iterator[None]:
    """Tell the person of an error of the server or of a file, in place of raising it."""
    try:
        yield
    except (RecserveError, ServerError, OSError, ValueError) as error:
        say(error)


def confirm(title: str, about: str, word: str, action: Callable[[], Any]) -> ui.dialog:
    """A dialog that asks before something is done; opened by the caller."""
    with ui.dialog() as dialog, ui.card().props('role="alertdialog"'):
        heading(title, 2)
        ui.label(about)
        with ui.row().classes("w-full justify-end"):
            ui.button("Cancel", on_click=dialog.close).props("flat")

            async def go() -> None:
                dialog.close()
                await action()

            ui.button(word, on_click=go).props("color=negative")
    return dialog


def close_button(dialog: ui.dialog) -> None:
    """The button that closes a dialog."""
    ui.button("Close", on_click=dialog.close).props("flat")


def size(bytes_: float) -> str:
    """A size as people read it."""
    unit = 0
    while bytes_ >= 1000 and unit < len(_UNITS) - 1:
        bytes_, unit = bytes_ / 1000, unit + 1
    return f"{bytes_:.0f} {_UNITS[unit]}" if bytes_ >= 100 or unit == 0 else f"{bytes_:.1f} {_UNITS[unit]}"


def age(moment_s: float | None) -> str:
    """How long ago a moment was."""
    if not moment_s:
        return NONE
    seconds = max(time.time() - moment_s, 0)
    for limit, unit, of in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / of:.0f} {unit} ago"
    return f"{seconds / 86_400:,.0f} days ago"


def moment(time_s: float) -> str:
    """A moment in UTC."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S")


def number(value: float | None, digits: int = 0) -> str:
    """A number as people read it; a dash where there is none."""
    return NONE if value is None else f"{value:,.{digits}f}"
