"""Draws a slate: each item with its score, and bars of what that is made of, by behaviour and by part."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from msgspec import UNSET
from nicegui import ui

from recserve_client.contract import Behaviour, Slate, SlateItem
from recserve_console.views.parts.finder import titles_of
from recserve_console.views.parts.pieces import COLOURS, bar, muted

#: Behaviours with a colour of their own; the others share the last one.
_COLOURED: Final = len(COLOURS) - 1
_OTHERS: Final = "other behaviours"


def colour_of(place: int) -> str:
    """The colour of a behaviour of a history."""
    return COLOURS[min(place, _COLOURED)]


def name_of(behaviour: Behaviour, names: Mapping[str, str]) -> str:
    """What a behaviour is called: the title of an item, or the text."""
    if behaviour.item is not None:
        return names.get(behaviour.item, behaviour.item)
    return f"“{behaviour.text}”" if behaviour.text is not None else "(vector)"


def draw_slate(
    slate: Slate,
    history: Sequence[Behaviour],
    names: Mapping[str, str],
    title: str,
    *,
    shared: Collection[str] = (),
    add: Callable[[str, str], Any] | None = None,
) -> None:
    """Draw a slate into the current place.

    Args:
        slate: What the server answered.
        history: The behaviours that the contributions belong to.
        names: Titles of items by id.
        title: Field with the title.
        shared: Ids of items that are marked as shared with another slate.
        add: Called with the id and the title of an item, to put it into the history.
    """
    if not slate.items:
        muted("No item is left: the filter or the history excludes all.")
        return
    longest = max((_extent(item) for item in slate.items), default=0.0) or 1.0
    titles = titles_of(slate, title)
    parts = list(dict.fromkeys(name for item in slate.items for name in _parts(item)))
    if len(parts) > 1:
        _legend("by part:", [(name, _part_colour(place)) for place, name in enumerate(parts)])
    with ui.element("ol").classes("w-full q-ma-none q-pa-none").style("list-style: none"):
        for place, item in enumerate(slate.items):
            with ui.element("li").classes("w-full q-py-xs"):
                _draw_item(place + 1, item, titles[item.id], item.id in shared, add)
                _draw_bars(item, history, names, parts, longest)


def history_legend(history: Sequence[Behaviour], names: Mapping[str, str]) -> None:
    """The colours of the behaviours."""
    shown = [(name_of(one, names), colour_of(place)) for place, one in enumerate(history[:_COLOURED])]
    if len(history) > _COLOURED:
        shown.append((_OTHERS, COLOURS[_COLOURED]))
    _legend("by behaviour:", shown)


def _part_colour(place: int) -> str:
    """The colour of a part: other ones first than behaviours have."""
    return COLOURS[-1 - place % len(COLOURS)]


def _legend(about: str, entries: Sequence[tuple[str, str]]) -> None:
    with ui.row().classes("gap-x-4 gap-y-1 w-full"):
        muted(about).classes("text-xs")
        for name, colour in entries:
            with ui.row().classes("items-center gap-1 no-wrap"):
                ui.element("span").classes("rs-dot").style(f"background-color: {colour}").props("aria-hidden=true")
                muted(name if len(name) < 40 else f"{name[:40]} …").classes("text-xs")


def _draw_item(place: int, item: SlateItem, title: str, is_shared: bool, add: Callable[[str, str], Any] | None) -> None:
    with ui.row().classes("w-full items-center no-wrap gap-2"):
        muted(f"{place}").classes("w-6 shrink-0 text-right")
        with ui.column().classes("grow gap-0 min-w-0"):
            ui.label(title).classes("font-medium").style("overflow-wrap: anywhere")
            muted(_about(item, title)).classes("text-xs").style("overflow-wrap: anywhere")
        if is_shared:
            ui.icon("join_inner").props('role=img aria-label="in both slates"').classes("rs-good text-xl")
        ui.label(f"{item.score:.3f}").classes("tabular-nums")
        if add is not None:
            ui.button(icon="add", on_click=lambda: add(item.id, title)).props(
                'flat round dense aria-label="Add to the history"'
            )


def _about(item: SlateItem, title: str) -> str:
    words = [] if title == item.id else [item.id]
    if item.rules is not UNSET:
        words.append(f"rules: {', '.join(item.rules)}")
    if item.explored is not UNSET and item.explored:
        words.append("explored")
    if item.boosts is not UNSET:
        words.append(f"boosts: {sum(item.boosts):+.3f}")
    if item.interest is not UNSET:
        words.append(f"interest {item.interest + 1}")
    return "  ·  ".join(words)


def _draw_bars(
    item: SlateItem, history: Sequence[Behaviour], names: Mapping[str, str], parts: Sequence[str], longest: float
) -> None:
    values = _contributions(item)
    with ui.column().classes("w-full gap-1").style("padding-left: 2rem"):
        if values and len(values) == len(history) and any(values):
            of = [(name_of(one, names), value) for one, value in zip(history, values, strict=True)]
            label = "by behaviour: " + ", ".join(f"{name} {value:+.3f}" for name, value in of[:_COLOURED])
            shares = [(value / longest, colour_of(place)) for place, value in enumerate(values)]
            bar(shares, label).props["title"] = label[:400]
        if len(parts) > 1:
            own = _parts(item)
            label = "by part: " + ", ".join(f"{name} {own[name]:+.3f}" for name in parts if name in own)
            shares = [(own.get(name, 0) / longest, _part_colour(at)) for at, name in enumerate(parts)]
            bar(shares, label).props["title"] = label[:400]


def _extent(item: SlateItem) -> float:
    """Width of the longer bar of an item, in units of the score."""
    return max(sum(map(abs, _contributions(item))), sum(map(abs, _parts(item).values())))


def _contributions(item: SlateItem) -> list[float]:
    return item.contributions if item.contributions is not UNSET else []


def _parts(item: SlateItem) -> dict[str, float]:
    return item.parts if item.parts is not UNSET else {}
