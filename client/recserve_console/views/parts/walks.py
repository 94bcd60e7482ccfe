"""Draws the walk of a request: its stages, where candidates came from, and why an item is or is not in the slate."""

from __future__ import annotations

from msgspec import UNSET
from nicegui import ui

from recserve_client.contract import SlateWalk, WalkItem, WalkSource
from recserve_console.views.parts.pieces import heading, muted, table


def draw_walk(walk: SlateWalk) -> None:
    """Draw the stages and the sources into the current place."""
    if walk.cold is not UNSET:
        muted(f"The profile is not usable: {walk.cold}")
    stages = [
        (stage.name, f"{stage.took_us / 1000:.2f}", "" if stage.items is UNSET else f"{stage.items:,}")
        for stage in walk.stages
    ]
    table(("stage", "ms", "items left"), stages, right=("ms", "items left"), label="Stages of the request")
    sources = [(_name(source), f"{source.candidates:,}", f"{source.in_slate:,}") for source in walk.sources]
    columns = ("candidates from", "candidates", "in the slate")
    table(columns, sources, right=columns[1:], label="Candidates by source")


def draw_verdict(item: WalkItem, title: str) -> None:
    """Draw what became of an item into the current place."""
    heading(title, 3)
    words = [item.verdict.replace("_", " ")]
    if item.rank is not UNSET:
        words.append(f"rank {item.rank}")
    if item.score is not UNSET:
        words.append(f"score {item.score:.4g}")
    ui.label(", ".join(words)).classes("font-medium")
    ui.label(item.why).style("overflow-wrap: anywhere")
    if item.sources:
        muted(f"proposed by {', '.join(item.sources)}")


def _name(source: WalkSource) -> str:
    kind = "" if source.kind in ("strategy", source.name) else f"{source.kind}: "
    return f"{kind}{source.name}" + ("" if source.interest is UNSET else f", interest {source.interest + 1}")
