"""Users of the benchmark, what they did, and the requests that record it or ask for their slates; all seeded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from recserve_client.contract import NewInteraction, RecommendRequest, RecordInteractions, pack
from recserve_server_ext.common.arrays import Rows
from recserve_server_ext.common.units import DAY_S
from recserve_server_ext.interactions.interaction import Interaction
from recserve_server_ext.interactions.pseudonyms import Pseudonyms

#: A like now and then over two months breaks none of the rules against bots and bounces.
_TYPE: Final = "like"
_SPAN_S: Final = 60 * DAY_S
_YEAR_S: Final = 365 * DAY_S
#: Interactions of each user who only fills the store.
FILL_EVENTS: Final = 5


class People(NamedTuple):
    """Users who are recommended for.

    Attributes:
        ids: [users] ids as callers know them.
        rows: [users, interactions] items that each liked, newest first, each once.
    """

    ids: list[str]
    rows: Rows


def people(name: str, events: int, count: int, *, items: int, seed: int) -> People:
    """Users with so many interactions each, with distinct items out of so many."""
    random = np.random.default_rng([seed, events, count])
    rows = np.stack([random.choice(items, events, replace=False) for _ in range(count)])
    return People([f"{name}-{number}" for number in range(count)], rows)


def pasts_of(some: People, pseudonyms: Pseudonyms, now: float) -> Iterator[Interaction]:
    """What users did who are recommended for, over the last two months."""
    step_s = _SPAN_S / some.rows.shape[1]
    for user_id, rows in zip(some.ids, some.rows.tolist(), strict=True):
        user = pseudonyms.of(user_id)
        for number, row in enumerate(rows):
            yield Interaction(user=user, type=_TYPE, timestamp=now - 3600 - number * step_s, item=f"t{row}")


def fill_pasts(users: int, pseudonyms: Pseudonyms, *, items: int, now: float, seed: int) -> Iterator[Interaction]:
    """What users did who only fill the store, five interactions each over the last year."""
    random = np.random.default_rng([seed, 1])
    for number in range(users):
        user = pseudonyms.of(f"fill-{number}")
        rows, ages_s = random.integers(items, size=FILL_EVENTS), random.random(FILL_EVENTS) * _YEAR_S
        for row, age_s in zip(rows.tolist(), ages_s.tolist(), strict=True):
            yield Interaction(user=user, type=_TYPE, timestamp=now - 3600 - age_s, item=f"t{row}")


def new_interactions(count: int, *, users: int, items: int, now: float, seed: int) -> list[NewInteraction]:
    """Interactions to record while the clock runs, of many users, none of them in the store before."""
    random = np.random.default_rng([seed, 2])
    drawn = zip(random.integers(users, size=count).tolist(), random.integers(items, size=count).tolist(), strict=True)
    # Without an event id the content tells interactions apart: every timestamp is used once.
    return [
        NewInteraction(user_id=f"new-{seed}-{user}", type=_TYPE, timestamp=now - 1 - number * 1e-4, item=f"t{row}")
        for number, (user, row) in enumerate(drawn)
    ]


def record_requests(interactions: Sequence[NewInteraction], size: int) -> list[bytes]:
    """Packed requests that record so many interactions each."""
    raw = [msgspec.Raw(msgspec.json.encode(interaction)) for interaction in interactions]
    return [pack(RecordInteractions(raw[start : start + size])) for start in range(0, len(raw), size)]


def by_user_requests(some: People) -> list[bytes]:
    """A packed request for each user, by id."""
    return [pack(RecommendRequest(user_id=user_id, accept="msgpack")) for user_id in some.ids]
