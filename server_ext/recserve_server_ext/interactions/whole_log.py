"""Reads the interactions of all users with the items of a catalogue, as columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import sqlalchemy as sa

from recserve_server_ext.common.arrays import Ints
from recserve_server_ext.interactions import reads
from recserve_server_ext.interactions.columns import InteractionColumns
from recserve_server_ext.interactions.interaction import MEASURES
from recserve_server_ext.interactions.tables import interactions

#: Interactions that are read at once.
_PART: Final = 20_000
_TYPE: Final = np.dtype(np.int16)


class WholeLog(NamedTuple):
    """Interactions of all users.

    Attributes:
        columns: Sorted by user, and as they came; `subjects` are the items that were asked for, all of them.
        unknown: Interactions with other items.
        texts: Interactions without an item.
        last_number: Number of the newest interaction of the store; 0 without any.
    """

    columns: InteractionColumns
    unknown: int
    texts: int
    last_number: int


def read_log(
    connection: sa.Connection,
    items: Sequence[str],
    until_us: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> WholeLog:
    """Read the whole log; memory beside the result does not grow with it.

    Args:
        connection: To the interaction store.
        items: Item ids; interactions with others are counted.
        until_us: Only interactions before this time, in microseconds since 1970.
        on_progress: Called with the interactions done and all of them.
    """
    last, place_of = reads.last_number(connection), {item: place for place, item in enumerate(items)}
    query, types = _query(connection.dialect.name, until_us), dict[str, int]()
    parts: list[tuple[Any, ...]] = []
    unknown = texts = 0
    for first in range(0, last, _PART):
        packed = connection.execute(query, {"first": first, "last": min(first + _PART, last)}).scalar_one()
        users, kinds, names, times, *measures = msgspec.json.decode(packed)
        place = np.fromiter((place_of.get(name, -1) for name in names), np.int64, len(names))
        kept = place >= 0
        without = names.count(None)
        texts, unknown = texts + without, unknown + int((~kept).sum()) - without
        codes = np.fromiter((types.setdefault(name, len(types)) for name in kinds), _TYPE, len(kinds))
        numbers = np.array(measures, np.float64)
        parts.append((np.array(users, np.int64)[kept], codes[kept], place[kept], np.array(times, np.int64)[kept],
                      numbers[:, kept]))  # fmt: skip
        on_progress(min(first + _PART, last), last)
    return WholeLog(_joined(parts, list(types), list(items)), unknown, texts, last)


def _query(dialect: str, until_us: int | None) -> sa.Select[Any]:
    of = interactions.c
    chosen = sa.select(of.user, of.type, of.item, of.time_us, *(of[name] for name in MEASURES))
    chosen = chosen.where(of.number > sa.bindparam("first"), of.number <= sa.bindparam("last"))
    if until_us is not None:
        chosen = chosen.where(of.time_us < until_us)
    return reads.in_columns(dialect, chosen.order_by(of.number))


def _joined(parts: list[tuple[Any, ...]], types: list[str], items: list[str]) -> InteractionColumns:
    users, kinds, subjects, times, measures = zip(*parts, strict=True) if parts else ((),) * 5
    user: Ints = np.concatenate([*users, np.empty(0, np.int64)])
    _, number = np.unique(user, return_inverse=True)
    order = np.argsort(number, kind="stable")
    values = np.concatenate([*measures, np.empty((len(MEASURES), 0))], axis=1)[:, order]
    value, duration_s, price, quantity = values
    return InteractionColumns(
        offsets=np.concatenate([[0], np.cumsum(np.bincount(number))]).astype(np.int64),
        time_us=np.concatenate([*times, np.empty(0, np.int64)])[order],
        type=np.concatenate([*kinds, np.empty(0, _TYPE)]).astype(np.int64)[order],
        subject=np.concatenate([*subjects, np.empty(0, np.int64)])[order],
        value=value,
        duration_s=duration_s,
        price=price,
        quantity=quantity,
        types=types,
        subjects=items,
        is_item=np.ones(len(items), np.bool_),
    )
