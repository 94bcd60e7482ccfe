"""What an interaction store accepts and how much it keeps."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from recserve_server_ext.common.units import DAY_S

Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]


class InteractionLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The limits of an interaction store.

    Attributes:
        future_s: How far ahead of the server's clock a timestamp may be.
        max_age_s: Interactions older than this are removed by `recserve interactions expire`; with `None` they stay.
        per_user: Interactions kept of one user: the newest. Up to `slack` more are there between two cuts.
        seen_per_user: Entries kept of what one user saw: the newest, one for each item and kind. The same slack.
        seen_max_age_s: Entries older than this are removed by the same command; with `None` they stay.
        slack: A user's rows are cut to the limits after this many interactions.
        tombstone_s: For how long after an erasure older interactions of that user are refused.
        batch: Interactions of one call, and of one transaction.
        queue: Interactions that may wait for a transaction; beyond that callers wait, and are refused after 10 s.
        answers: Logged answers kept: the newest.
        answers_max_age_s: Older ones are removed; with `None` they stay.
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
