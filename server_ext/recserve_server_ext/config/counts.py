"""Settings of the counts over the log of all users."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from recserve_server_ext.common.units import DAY_S

Belief = Annotated[float, Meta(ge=1, le=1e6)]
Seconds = Annotated[float, Meta(gt=0, le=1e12)]


class ClickPrior(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Prior of an item's click rate before anything is logged of it: Beta(clicks, others).

    Attributes:
        clicks: Number of clicks to start with.
        others: Number of recommendations without a click to start with.
    """

    clicks: Belief = 1.0
    others: Belief = 20.0


class CountSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the counts.

    Attributes:
        every_s: Time between two counts of the log.
        contexts: Names in the contexts of interactions; popularity is counted for each of their values.
        recent_half_life_s: Age at which an interaction counts half as much for recent popularity.
        neighbours: Number of neighbours kept for each item.
        shrink: Number of users added to the denominator of the similarity of two items.
        click_prior: Prior of the click rates for Thompson sampling.
    """

    every_s: Annotated[float, Meta(gt=0)] = 60.0
    contexts: Annotated[tuple[str, ...], Meta(max_length=4)] = ()
    recent_half_life_s: Seconds = 10 * DAY_S
    neighbours: Annotated[int, Meta(ge=1, le=1000)] = 100
    shrink: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    click_prior: ClickPrior = ClickPrior()
