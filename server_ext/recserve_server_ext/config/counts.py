"""Settings of what is counted over all users: clicks that are believed beforehand, and privacy of what is popular."""

from __future__ import annotations

import math
from typing import Annotated, Literal

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


class PopularPrivacy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the numbers of users by item are made private; `private_counts.private_ranking` says what is guaranteed.

    Attributes:
        epsilon: Of one count, for all numbers that it publishes together.
        items: Items of a user that count: the newest. More of them are closer to the truth and need more noise.
        window: The one window that is counted, whichever a request names: each more would need its share of epsilon.
        fewest: Items with a smaller number, noise included, are left out, so that one user cannot make an item appear.
    """

    epsilon: Annotated[float, Meta(gt=0, le=100)] = 1.0
    items: Annotated[int, Meta(ge=1, le=1000)] = 10
    window: Literal["day", "week", "month", "all"] = "month"
    fewest: Annotated[int, Meta(ge=2, le=1_000_000)] = 180

    @property
    def ratio(self) -> float:
        """Alpha = exp(-epsilon / L1 sensitivity): a user changes `items` numbers and that of active users by one."""
        return math.exp(-self.epsilon / (self.items + 1))

    @property
    def delta(self) -> float:
        """Probability at most that an item of one user alone appears: items * P(1 + noise >= fewest)."""
        return self.items * self.ratio ** (self.fewest - 1) / (1 + self.ratio)
