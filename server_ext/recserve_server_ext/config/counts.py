"""Settings of what is counted over all users: the clicks that are believed beforehand."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Belief = Annotated[float, Meta(ge=1, le=1e6)]


class ClickPrior(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is believed of an item of which nothing was logged: its rate of clicks is Beta(clicks, others).

    Attributes:
        clicks: As many clicks, seen beforehand.
        others: As many times that it was recommended and not clicked.
    """

    clicks: Belief = 1.0
    others: Belief = 20.0
