"""Users of the benchmark, what they did, and the requests that record it or ask for their slates; all seeded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from recserve_client.contract import Behaviour, NewInteraction, RecommendRequest, pack
from recserve_server_ext.common.arrays import Ints
from recserve_server_ext.common.units import DAY_S, MICROSECONDS
from recserve_server_ext.interactions.interaction import Interaction, checked
from recserve_server_ext.interactions.pseudonyms import Pseudonyms

#: Kept clear of the rules against bots and bounces: a like now and then, over the last two months.
TYPE: Final = "like"
_SPAN_S: Final = 60 * DAY_S
_YEAR_S: Final = 365 * DAY_S
#: Interactions of each user who only fills the store.
FILL_EVENTS: Final = 5
#: Interactions of one block: this bounds the memory of filling a store.
_BLOCK: Final = 50_000


class BenchUser(NamedTuple):
    """A user who is recommended for or erased.

    Attributes:
        user_id: As callers know it.
        items: [events] what the user liked, newest first, each once.
    """

    user_id: str
    items: list[str]


def users_with(events: int, count: int, *, items: int, name: str, seed: int) -> list[BenchUser]:
    """Users with so many interactions each, of distinct items."""
    random = np.random.default_rng([seed, events, count])
    rows = [random.choice(items, events, replace=False).tolist() for _ in range(count)]
    return [BenchUser(f"{name}-{number}", [f"t{row}" for row in line]) for number, line in enumerate(rows)]


class Past(NamedTuple):
    """What some users did before the measurement, all of one type.

    Attributes:
        user_ids: As callers know them.
        counts: [users] interactions of each.
        rows: [events] items, one user after the other.
        time_us: [events] microseconds since 1970.
    """

    user_ids: list[str]
    counts: Ints
    rows: Ints
    time_us: Ints


def pasts_of(users: Sequence[BenchUser], now: float) -> Iterator[Past]:
    """What users did who are recommended for or erased, newest first, some thousand interactions at a time."""
    start = 0
    while start < len(users):
        end = start + max(1, _BLOCK // len(users[start].items))
        some = users[start:end]
        counts = np.array([len(user.items) for user in some], np.int64)
        number = np.concatenate([np.arange(count) for count in counts])
        rows = np.array([int(item[1:]) for user in some for item in user.items], np.int64)
        time_s = now - 3600 - number * np.repeat(_SPAN_S / counts, counts)
        yield Past([user.user_id for user in some], counts, rows, _microseconds(time_s))
        start = end


def fill_pasts(users: int, *, items: int, now: float, seed: int) -> Iterator[Past]:
    """What users did who only fill the store, over the last year."""
    random = np.random.default_rng([seed, 1])
    step = _BLOCK // FILL_EVENTS
    for start in range(0, users, step):
        ids = [f"fill-{number}" for number in range(start, min(start + step, users))]
        rows = random.integers(items, size=len(ids) * FILL_EVENTS)
        ages_s = random.random(len(rows)) * _YEAR_S + 3600
        yield Past(ids, np.full(len(ids), FILL_EVENTS), rows, _microseconds(now - ages_s))


def _microseconds(time_s: NDArray[np.float64]) -> Ints:
    return np.asarray(np.rint(time_s * MICROSECONDS).astype(np.int64))


def new_events(count: int, *, users: int, items: int, now: float, seed: int) -> list[NewInteraction]:
    """Interactions to record while the clock runs, of many users, none of them in the store before."""
    random = np.random.default_rng([seed, 2])
    of = random.integers(users, size=count).tolist()
    rows = random.integers(items, size=count).tolist()
    # Without an event id of its own the content tells an interaction from others: every timestamp is used once.
    made = zip(of, rows, strict=True)
    return [
        NewInteraction(user_id=f"new-{seed}-{user}", type=TYPE, timestamp=now - 1 - number * 1e-4, item=f"t{row}")
        for number, (user, row) in enumerate(made)
    ]


def columns_of(event: NewInteraction, pseudonyms: Pseudonyms) -> tuple[str, dict[str, Any]]:
    """The pseudonym and the columns that serving writes for an interaction."""
    given = {name: value for name, value in msgspec.structs.asdict(event).items() if name != "user_id"}
    found = Interaction(user=pseudonyms.of(event.user_id), **given)
    return found.user, checked(found, event.timestamp + MICROSECONDS)


def record_requests(events: Sequence[NewInteraction], size: int) -> list[bytes]:
    """Packed requests that record so many interactions each."""
    encode = msgspec.json.encode
    return [
        b'{"op":"record","interactions":[' + b",".join(map(encode, events[start : start + size])) + b"]}"
        for start in range(0, len(events), size)
    ]


def by_user_requests(users: Sequence[BenchUser]) -> list[bytes]:
    """One packed request for each user, by id."""
    return [pack(RecommendRequest(user_id=user.user_id)) for user in users]


def by_history_requests(users: Sequence[BenchUser]) -> list[bytes]:
    """The same users as callers ask who keep the histories themselves."""
    return [pack(RecommendRequest(history=[Behaviour(item=item) for item in user.items])) for user in users]


def erase_requests(users: Sequence[BenchUser]) -> list[bytes]:
    """One packed request for each user, to erase them."""
    return [msgspec.json.encode({"op": "erase", "user_id": user.user_id}) for user in users]
