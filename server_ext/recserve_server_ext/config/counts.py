"""What is counted of the log of all users, and how often."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from recserve_server_ext.common.units import DAY_S

Belief = Annotated[float, Meta(ge=1, le=1e6)]
Seconds = Annotated[float, Meta(gt=0, le=1e12)]


class ClickPrior(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is believed of an item of which nothing was logged: its rate of clicks is Beta(clicks, others).

    Attributes:
        clicks: As many clicks, seen beforehand.
        others: As many times that it was recommended and not clicked.
    """

    clicks: Belief = 1.0
    others: Belief = 20.0


class CountSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is counted of the log.

    Attributes:
        every_s: How often the log is counted again.
        contexts: Names in the contexts of interactions; what is popular is counted for each of their values.
        recent_half_life_s: Age after which an interaction counts half as much for recent popularity.
        neighbours: Items that are kept for each item.
        shrink: Users that are added to the denominator of the similarity of two items.
        click_prior: What Thompson sampling believes of an item before anything is logged of it.
    """

    every_s: Annotated[float, Meta(gt=0)] = 60.0
    contexts: Annotated[tuple[str, ...], Meta(max_length=4)] = ()
    recent_half_life_s: Seconds = 10 * DAY_S
    neighbours: Annotated[int, Meta(ge=1, le=1000)] = 100
    shrink: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    click_prior: ClickPrior = ClickPrior()
