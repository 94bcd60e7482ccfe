"""Draws the walk of a request: its stages, where candidates came from, and why an item is or is not in the slate."""

from __future__ import annotations

from typing import Final

from msgspec import UNSET
from nicegui import ui

from recserve_client.client import AsyncClient
from recserve_client.contract import RecommendRequest, SlateWalk, Walk, WalkItem, WalkSource
from recserve_client.errors import RecserveError
from recserve_console.views.parts.pieces import heading, muted, table

#: Most items that one walk explains.
_EXPLAINED: Final = 20


async def draw_walk_again(client: AsyncClient, recommendation_id: str, names: dict[str, str]) -> None:
    """Work out the walk of an earlier recommendation now, and draw it into the current place.

    Args:
        client: Client of the server that recommended.
        recommendation_id: Id of the recommendation.
        names: What was recommended: titles by id, best first.

    Raises:
        RecserveError: The server does not hold the request any more, or does not answer.
    """
    asked = RecommendRequest(walk=Walk(list(names)[:_EXPLAINED], recommendation_id))
    (answer,) = await client.recommend_many([asked])
    if isinstance(answer, RecserveError):
        raise answer
    assert answer.walk is not UNSET
    gone = set(names) - {item.id for item in answer.items}
    muted(
        f"Worked out now, by asking again as it was asked then. Catalogue, log and chance may have changed: of "
        f"{len(names)} items, {len(names) - len(gone)} would be recommended."
    )
    draw_walk(answer.walk)
    for item in answer.walk.items:
        if item.id in gone:
            draw_verdict(item, names[item.id])


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
