"""A log of four crowds: each likes items of its own, some at first and others later."""

from __future__ import annotations

import numpy as np

from recserve_server_ext.interactions.interaction import Interaction
from recserve_server_ext.interactions.store import InteractionStore
from support.events import NOW, PSEUDONYMS, event

USERS, CROWDS, LIKED = 60, 4, 20
_DAY_S = 86_400.0


def crowd(day: int, each: int, users: int = USERS) -> list[Interaction]:
    """What users do on a day, counted back from now: each crowd likes items of its own."""
    random = np.random.default_rng(day)
    return [
        event(
            PSEUDONYMS.of(f"user{user}"),
            f"i{LIKED * (user % CROWDS) + place}",
            type="like",
            timestamp=NOW - day * _DAY_S + 60.0 * n + user,
        )
        for user in range(users)
        for n, place in enumerate(random.choice(LIKED, each, replace=False).tolist())
    ]


def record(store: InteractionStore, events: list[Interaction]) -> None:
    assert {found.status for found in store.record(events)} <= {"recorded", "duplicate"}
