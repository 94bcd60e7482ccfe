"""Limits of an interaction store."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from recserve_server_ext.common.units import DAY_S

Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]


class InteractionLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an interaction store accepts, and how much it keeps.

    Attributes:
        future_s: How far a timestamp may be ahead of the server's clock.
        max_age_s: Age at which interactions expire; `None` for never.
        per_user: Newest interactions kept of a user, and up to `slack` more between two cuts.
        seen_per_user: Newest seen items kept of a user, one entry for each item and kind, with the same slack.
        seen_max_age_s: Age at which seen items expire; `None` for never.
        slack: Number of interactions after which a user's rows are cut to the limits.
        tombstone_s: How long after an erasure older interactions of that user are refused.
        batch: Most interactions of a call, and of a transaction.
        queue: Interactions that may wait for a transaction; further callers wait for room, for 10 s.
        answers: Newest logged answers kept.
        answers_max_age_s: Age at which logged answers expire; `None` for never.
    """

    future_s: Annotated[float, Meta(ge=0)] = 300.0
    max_age_s: Seconds | None = None
    per_user: Positive = 100_000
    seen_per_user: Positive = 10_000
    seen_max_age_s: Seconds | None = None
    slack: Positive = 1000
    tombstone_s: Seconds = 30 * DAY_S
    batch: Positive = 5000
    queue: Positive = 20_000
    answers: Positive = 1_000_000
    answers_max_age_s: Seconds | None = 90 * DAY_S
