"""How often each item was recommended and clicked, counted from the logged answers and what names them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np
import sqlalchemy as sa

from recserve_server_ext.common.arrays import Ints
from recserve_server_ext.common.units import DAY_S, MICROSECONDS
from recserve_server_ext.config.counts import ClickPrior
from recserve_server_ext.interactions.reads import in_columns
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.interactions.tables import answers, interactions

#: Types of interactions that are clicks.
CLICKS: Final = frozenset({"click", "view", "listen"})
#: Until so long after its answer an interaction counts, and a caller's clock may be so much behind the server's.
WINDOW_S: Final = DAY_S
SKEW_S: Final = 300.0
#: Newest answers, places in them, and newest interactions that are counted at most: this bounds what a count costs.
_ANSWERED: Final = 100_000
_SHOWN: Final = 1_000_000
_EVENTS: Final = 1_000_000
_CHUNK: Final = 1000
_PART: Final = msgspec.json.Decoder(tuple[list[int], list[str]])
_SLATES: Final = msgspec.json.Decoder(list[list[str]])


def _none() -> Ints:
    return np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class ClickCounts:
    """Items that were recommended.

    Attributes:
        items: Item ids.
        shown: [items] answers with it.
        clicked: [items] those of them in which it was clicked.
        prior: Of what was not logged.
    """

    items: list[str] = field(default_factory=list)
    shown: Ints = field(default_factory=_none)
    clicked: Ints = field(default_factory=_none)
    prior: ClickPrior = field(default_factory=ClickPrior)


def read_clicks(store: InteractionStore, prior: ClickPrior) -> ClickCounts:
    """Count the newest 100,000 logged answers, or fewer with 1,000,000 items in all, and the clicks that name them.

    As in `recserve outcomes report`, a click is one of `CLICKS` within a day after the answer, by the user who was
    answered, with an item of the answer; each item of an answer is clicked once, and answers whose variants were named
    do not count. Clicks are looked for among the newest 1,000,000 interactions.

    Args:
        store: The interaction store.
        prior: To go with the counts.

    Raises:
        InteractionError: The store cannot be read.
    """
    codes: dict[str, int] = {}
    with store.database.reading() as connection:
        numbers, places = _shown(connection, codes)
        of_clicks = _clicked(connection, int(numbers.min()), codes) if len(numbers) else np.empty((2, 0), np.int64)
    n = len(codes)
    # One number for each item of an answer; a click counts once for it, and not without it.
    both = np.intersect1d(numbers * n + places, of_clicks[0] * n + of_clicks[1])
    shown = np.bincount(places, minlength=n)
    return ClickCounts(list(codes), shown, np.bincount(both % max(n, 1), minlength=n), prior)


def _shown(connection: sa.Connection, codes: dict[str, int]) -> tuple[Ints, Ints]:
    """[items of answers] numbers of the answers, and codes of the items, which are added."""
    newest = connection.execute(sa.select(sa.func.max(answers.c.number))).scalar_one() or 0
    chosen = sa.select(answers.c.number, answers.c.recommended).where(sa.not_(answers.c.forced))
    chosen = chosen.where(answers.c.number > sa.bindparam("first"), answers.c.number <= sa.bindparam("last"))
    query = in_columns(connection.dialect.name, chosen.order_by(answers.c.number.desc()))
    numbers, places, total = [_none()], [_none()], 0
    for last in range(newest, max(newest - _ANSWERED, 0), -_CHUNK):
        first = max(last - _CHUNK, newest - _ANSWERED)
        named, packed = _PART.decode(connection.execute(query, {"first": first, "last": last}).scalar_one())
        slates = _SLATES.decode(f"[{','.join(packed)}]")
        lengths = np.array([len(slate) for slate in slates], np.int64)
        numbers.append(np.repeat(np.array(named, np.int64), lengths))
        places.append(np.array([codes.setdefault(item, len(codes)) for slate in slates for item in slate], np.int64))
        total += int(lengths.sum())
        if total >= _SHOWN:
            break
    return np.concatenate(numbers), np.concatenate(places)


def _clicked(connection: sa.Connection, oldest: int, codes: dict[str, int]) -> Ints:
    """[2, clicks] the number of the answer that is named, and the code of the item, of those that are known."""
    newest = connection.execute(sa.select(sa.func.max(interactions.c.number))).scalar_one() or 0
    after_us = interactions.c.time_us - answers.c.time_us
    query = (
        sa.select(answers.c.number, interactions.c.item)
        .join_from(interactions, answers, answers.c.recommendation_id == interactions.c.recommendation_id)
        .where(
            interactions.c.number > newest - _EVENTS, interactions.c.type.in_(CLICKS), interactions.c.item.is_not(None)
        )
        .where(answers.c.number >= oldest, sa.not_(answers.c.forced))
        .where(sa.or_(answers.c.user.is_(None), answers.c.user == interactions.c.user))
        .where(after_us >= -round(SKEW_S * MICROSECONDS), after_us <= round(WINDOW_S * MICROSECONDS))
    )
    parts = [np.empty((2, 0), np.int64)]
    for part in connection.execution_options(yield_per=_CHUNK).execute(query).partitions():
        known = [(row.number, codes[row.item]) for row in part if row.item in codes]
        parts.append(np.array(known, np.int64).reshape(-1, 2).T)
    return np.concatenate(parts, axis=1)
