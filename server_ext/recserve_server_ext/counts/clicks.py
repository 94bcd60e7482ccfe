"""Impressions and clicks of each item, counted from logged answers and the interactions that name them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
import numpy as np
import sqlalchemy as sa

from recserve_server_ext.common.arrays import Ints
from recserve_server_ext.common.units import DAY_S, MICROSECONDS
from recserve_server_ext.config.counts import ClickPrior
from recserve_server_ext.counts.counts import ClickCounts
from recserve_server_ext.interactions.reads import in_columns
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.interactions.tables import answers, interactions

#: Interaction types that are clicks.
CLICKS: Final = frozenset({"click", "view", "listen"})
#: An interaction counts up to this long after its answer.
WINDOW_S: Final = DAY_S
#: How far a caller's clock may be behind the server's.
SKEW_S: Final = 300.0
#: The newest answers, impressions and interactions that are counted. These bounds limit the cost of a count.
_MAX_ANSWERS: Final = 100_000
_MAX_IMPRESSIONS: Final = 1_000_000
#: The newest interactions that are counted. This bounds the cost of a count, and the memory.
MAX_INTERACTIONS: Final = 1_000_000
#: The newest interactions that are counted for the last hour, which is done every minute.
_MAX_RECENT: Final = 200_000
_CHUNK: Final = 1000
_COLUMNS: Final = msgspec.json.Decoder(tuple[list[str], list[int], list[str]])
_SLATES: Final = msgspec.json.Decoder(list[list[str]])


def read_clicks(store: InteractionStore, prior: ClickPrior) -> ClickCounts:
    """Count the impressions of the newest logged answers, and their clicks.

    At most 100,000 answers with 1,000,000 impressions count. As in `recserve outcomes report`, a click is an
    interaction of a type in `CLICKS`, within a day after the answer, by the same user, with an item of the answer. Each
    impression is clicked at most once, and answers with forced variants do not count. Clicks are taken from the newest
    1,000,000 interactions.

    Raises:
        InteractionError: The store cannot be read.
    """
    codes: dict[str, int] = {}
    with store.database.reading() as connection:
        numbers, places = _shown(connection, codes)
        oldest = int(numbers.min(initial=0))
        clicks = _clicked(connection, oldest, codes) if len(numbers) else np.empty((2, 0), np.int64)
    n = len(codes)
    # One number for each impression: a click counts once, and only on an impression.
    clicked = np.intersect1d(numbers * n + places, clicks[0] * n + clicks[1])
    shown = np.bincount(places, minlength=n)
    return ClickCounts(list(codes), shown, np.bincount(clicked % max(n, 1), minlength=n), prior)


def clicks_by_strategy(store: InteractionStore, since_us: int) -> dict[str, tuple[int, int]]:
    """Impressions and clicks of the answers since a moment, by strategy; see `read_clicks` for what counts.

    Clicks are taken from the newest 200,000 interactions.

    Raises:
        InteractionError: The store cannot be read.
    """
    shown: Counter[str] = Counter()
    clicked: Counter[str] = Counter()
    with store.database.reading() as connection:
        newest = _newest(connection, answers.c.number)
        if (oldest := _oldest(connection, newest, since_us)) is None:
            return {}
        clicked_of: defaultdict[int, set[str]] = defaultdict(set)
        for rows in _click_rows(connection, oldest, _MAX_RECENT):
            for number, item in rows:
                clicked_of[number].add(item)
        for names, numbers, slates in _answers(connection, newest, oldest - 1, answers.c.time_us >= since_us):
            for strategy, number, slate in zip(names, numbers, slates, strict=True):
                shown[strategy] += len(slate)
                if number in clicked_of:
                    clicked[strategy] += len(clicked_of[number].intersection(slate))
    return {strategy: (shown[strategy], clicked[strategy]) for strategy in shown}


def _newest(connection: sa.Connection, numbers: sa.Column[int]) -> int:
    return connection.execute(sa.select(sa.func.max(numbers))).scalar_one() or 0


def _oldest(connection: sa.Connection, newest: int, since_us: int) -> int | None:
    """Number of the first one of the newest answers since a moment."""
    query = sa.select(sa.func.min(answers.c.number)).where(answers.c.number > newest - _MAX_ANSWERS)
    query = query.where(answers.c.time_us >= since_us, sa.not_(answers.c.forced))
    return connection.execute(query).scalar_one_or_none()


def _answers(
    connection: sa.Connection, newest: int, before: int = 0, *conditions: sa.ColumnElement[bool]
) -> Iterator[tuple[list[str], list[int], list[list[str]]]]:
    """Strategies, numbers and items of the newest answers after the number `before`, a thousand at a time."""
    chosen = sa.select(answers.c.strategy, answers.c.number, answers.c.recommended)
    chosen = chosen.where(sa.not_(answers.c.forced), *conditions)
    chosen = chosen.where(answers.c.number > sa.bindparam("first"), answers.c.number <= sa.bindparam("last"))
    query = in_columns(connection.dialect.name, chosen.order_by(answers.c.number.desc()))
    least, total = max(newest - _MAX_ANSWERS, before), 0
    for last in range(newest, least, -_CHUNK):
        first = max(last - _CHUNK, least)
        found = connection.execute(query, {"first": first, "last": last}).scalar_one()
        strategies, numbers, packed = _COLUMNS.decode(found)
        slates = _SLATES.decode(f"[{','.join(packed)}]")
        yield strategies, numbers, slates
        total += sum(map(len, slates))
        if total >= _MAX_IMPRESSIONS:
            break


def _shown(connection: sa.Connection, codes: dict[str, int]) -> tuple[Ints, Ints]:
    """[impressions] number of the answer, and code of the item; new items are added to `codes`."""
    numbers, places = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for _, named, slates in _answers(connection, _newest(connection, answers.c.number)):
        lengths = np.array([len(slate) for slate in slates], np.int64)
        numbers.append(np.repeat(np.array(named, np.int64), lengths))
        places.append(np.array([codes.setdefault(item, len(codes)) for slate in slates for item in slate], np.int64))
    return np.concatenate(numbers), np.concatenate(places)


def _clicked(connection: sa.Connection, oldest: int, codes: dict[str, int]) -> Ints:
    """[2, clicks] number of the answer that a click names, and code of the item."""
    parts = [np.empty((2, 0), np.int64)]
    for rows in _click_rows(connection, oldest, MAX_INTERACTIONS):
        known = [(number, codes[item]) for number, item in rows if item in codes]
        parts.append(np.array(known, np.int64).reshape(-1, 2).T)
    return np.concatenate(parts, axis=1)


def _click_rows(connection: sa.Connection, oldest: int, most: int) -> Iterator[Sequence[sa.Row[int, str]]]:
    """Number of the answer that a click names, and id of the item, of the newest interactions."""
    after_us = interactions.c.time_us - answers.c.time_us
    query = (
        sa.select(answers.c.number, interactions.c.item)
        .join_from(interactions, answers, answers.c.recommendation_id == interactions.c.recommendation_id)
        .where(
            interactions.c.number > _newest(connection, interactions.c.number) - most,
            interactions.c.type.in_(CLICKS),
            interactions.c.item.is_not(None),
        )
        .where(answers.c.number >= oldest, sa.not_(answers.c.forced))
        .where(sa.or_(answers.c.user.is_(None), answers.c.user == interactions.c.user))
        .where(after_us >= -round(SKEW_S * MICROSECONDS), after_us <= round(WINDOW_S * MICROSECONDS))
    )
    yield from connection.execution_options(yield_per=_CHUNK).execute(query).partitions()
