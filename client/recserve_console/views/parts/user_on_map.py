"""A user on the map of the catalogue: behaviours by interest, the user vector, and what is recommended."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from msgspec import UNSET

from recserve_client.contract import Slate, UsedBehaviour, Walk
from recserve_console.console import Console
from recserve_console.home.catalogue_map import UserPlaces, user_places
from recserve_console.views.parts.finder import titles_of
from recserve_console.views.parts.pieces import COLOURS
from recserve_server_ext.common.arrays import Floats

#: Most interests that a history is split into, and items that are recommended.
_INTERESTS: Final = 8
_ITEMS: Final = 20
_NAME: Final = 80
_ON_TOP: Final = 5


@dataclass(frozen=True)
class UserOnMap:
    """A user with a slate, and where they are.

    Attributes:
        slate: What is recommended now, split by interests.
        history: What it is made from.
        places: Where these are.
        names: Titles of items by id.
    """

    slate: Slate
    history: list[UsedBehaviour]
    places: UserPlaces
    names: dict[str, str]

    @property
    def shares(self) -> list[float]:
        """Share of each interest in the history, largest first."""
        return [1.0] if self.slate.interests is UNSET else list(self.slate.interests)

    def series(self) -> list[dict[str, Any]]:
        """Series of a chart, to be drawn over the items."""
        drawn = []
        for interest in range(len(self.shares)):
            own = [place for place, one in enumerate(self.history) if (one.interest or 0) == interest]
            names = [self._name(self.history[place]) for place in own]
            about = f"interest {interest + 1}" if len(self.shares) > 1 else "history"
            colour = COLOURS[interest % len(COLOURS)]
            drawn.append(_series(about, "circle", 12, colour, self.places.behaviours[own], names))
        names = [self.names[item.id] for item in self.slate.items]
        drawn.append(_series("recommended", "triangle", 12, "#e08a00", self.places.items, names))
        drawn.append(_series("user", "diamond", 20, "#b3261e", self.places.user[None], ["the user vector"]))
        return drawn

    def _name(self, behaviour: UsedBehaviour) -> str:
        if behaviour.item is None:
            return f"“{behaviour.text}”"
        return self.names.get(behaviour.item, behaviour.item)


async def user_on_map(console: Console, home: Path, user: str) -> UserOnMap:
    """Recommend for a user now, and find out where all that is.

    Raises:
        RecserveError: The server does not recommend.
        SnapshotError: The snapshot of the home cannot be read.
    """
    title = console.schema.title
    fields = [title] if title else []
    # With a walk, so that it does not count as an impression.
    slate = await console.client.recommend_for(user, k=_ITEMS, interests=_INTERESTS, fields=fields, walk=Walk())
    history = [] if slate.history is UNSET else slate.history
    texts = [one.text for one in history if one.item is None and one.text is not None]
    vectors = iter(await console.client.embed(texts) if texts else ())
    behaviours = [next(vectors) if one.item is None else one.item for one in history]
    ids = [one.item for one in history if one.item is not None]
    found = (await console.client.items.get(ids)).items if ids else []
    names = {item.id: item.texts.get(title) or item.id for item in found} | titles_of(slate, title)
    weights, items = [one.weight for one in history], [item.id for item in slate.items]
    places = await asyncio.to_thread(user_places, home, behaviours, weights, items)
    return UserOnMap(slate, history, places, names)


def _series(about: str, symbol: str, size: int, colour: str, places: Floats, names: list[str]) -> dict[str, Any]:
    data = [
        {"name": f"{about}: {name[:_NAME]}", "value": [round(float(place[0]), 4), round(float(place[1]), 4)]}
        for place, name in zip(places, names, strict=True)
        if np.isfinite(place).all()
    ]
    style = {"color": colour, "borderColor": "#fff", "borderWidth": 1}
    return {
        "name": about, "type": "scatter", "symbol": symbol, "symbolSize": size, "itemStyle": style, "data": data,
        "z": _ON_TOP,
    }  # fmt: skip
