"""How the strategy `blend` weighs its parts."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from recserve_server_ext.common.units import DAY_S

Positive = Annotated[float, Meta(gt=0, le=1e12)]


class BlendRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Score = (1 - b) ((1 - t) counts / s_c + t text / s_t) + b popularity / s_p, b = prior / (prior + n).

    n = behaviours * 2^(-idle / stale_half_life_s), idle = the time since the user's newest interaction, or 0 in a
    session: what comes next depends on what came just before, and after a pause on what is popular by then. Each s is
    the standard deviation of the part over the whole catalogue, so that shares mean the same for everybody. Where the
    log knows nothing of a history's items, t is 1.

    Attributes:
        text: t, the part of text.
        prior: The n at which popularity has half of the score.
        stale_half_life_s: Time without an interaction after which a user's behaviours count as half as many.
        half_life_events: Newer interactions after which one counts half as much for item-to-item counts.
        recent_half_life_s: Age after which an interaction counts half as much for popularity.
        neighbours: Of each item that are kept.
        shrink: Users that are added to the denominator of the similarity of two items.
    """

    text: Annotated[float, Meta(ge=0, le=1)] = 0.1
    prior: Annotated[float, Meta(ge=0, le=1e9)] = 5.0
    stale_half_life_s: Positive = 3 * 3600.0
    half_life_events: Positive = 2.0
    recent_half_life_s: Positive = 10 * DAY_S
    neighbours: Annotated[int, Meta(ge=1, le=1000)] = 100
    shrink: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
