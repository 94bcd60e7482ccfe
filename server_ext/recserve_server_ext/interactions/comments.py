"""The queries that read comments: texts that users wrote about items, such as reviews."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa

from recserve_server_ext.interactions.columns import InteractionColumns
from recserve_server_ext.interactions.reads import gathered, in_columns, listed, newest, of_users
from recserve_server_ext.interactions.tables import interactions
from recserve_server_ext.storage.database import fetched

#: Interactions of one part of `rated_comments`: texts are long.
_PART: Final = 2000
_FIELDS: Final = ("time_us", "type", "item", "text")
_ROWS: Final = msgspec.json.Decoder(tuple[list[int], list[str], list[str], list[str]])


@cache
def comments_query(dialect: str, *, is_past: bool) -> sa.Select[Any]:
    """Number of each user and a JSON array of the columns of the newest interactions with a comment; see `newest`."""
    found = newest(dialect, *_FIELDS[1:], is_past=is_past, commented=True)
    return of_users(dialect, [gathered(dialect, found.c[name]) for name in _FIELDS])


def with_comments(
    connection: sa.Connection,
    numbers: Sequence[int | None],
    columns: InteractionColumns,
    limit: int,
    before_us: int | None = None,
) -> InteractionColumns:
    """The newest interactions of users, together with their comments.

    Of interactions of one type with one item at one time, all get the same comment.

    Args:
        numbers: Numbers of the users, in their order in the columns; `None` for an unknown one.
        columns: Interactions as `recserve_server_ext.interactions.reads.window` gives them.
        limit: Newest comments of a user that are read.
        before_us: Read only comments before this time, in microseconds since 1970.
    """
    wanted = [number for number in numbers if number is not None]
    if not wanted or not len(columns.time_us):
        return columns
    query = comments_query(connection.dialect.name, is_past=before_us is not None)
    bound = {"most": limit} if before_us is None else {"most": limit, "before_us": before_us}
    found: dict[int, dict[tuple[int, str, str], str]] = {}
    for number, packed in fetched(connection, query, {**listed(wanted), **bound}):
        times, types, items, texts = _ROWS.decode(packed)
        if texts:
            found[number] = dict(zip(zip(times, types, items, strict=True), texts, strict=True))
    comments: dict[int, str] = {}
    for number, (start, end) in zip(numbers, pairwise(columns.offsets.tolist()), strict=True):
        if number is None or not (of_user := found.get(number)):
            continue
        own = slice(start, end)
        types, subjects = columns.type[own].tolist(), columns.subject[own].tolist()
        for place, time_us, of_type, subject in zip(
            range(start, end), columns.time_us[own].tolist(), types, subjects, strict=True
        ):
            key = time_us, columns.types[of_type], columns.subjects[subject]
            if (text := of_user.get(key)) is not None:
                comments[place] = text
    return replace(columns, comments=comments)


class RatedComment(NamedTuple):
    """A comment beside a rating: number of the user, item, type, time in microseconds since 1970, rating, text."""

    user: int
    item: str
    type: str
    time_us: int
    value: float
    text: str


def rated_comments(
    connection: sa.Connection, last: int, since_us: int, until_us: int, types: Sequence[str]
) -> Iterator[list[RatedComment]]:
    """All comments beside ratings with since <= timestamp < until, in the order they came, some at a time.

    Args:
        last: Number of the last interaction.
        types: Types whose value is a rating.
    """
    of = interactions.c
    chosen = sa.select(*(of[name] for name in RatedComment._fields))
    chosen = chosen.where(of.number > sa.bindparam("first"), of.number <= sa.bindparam("last"))
    chosen = chosen.where(of.time_us >= since_us, of.time_us < until_us, of.type.in_(types), of.value.is_not(None))
    chosen = chosen.where(of.item.is_not(None), of.text.is_not(None)).order_by(of.number)
    query = in_columns(connection.dialect.name, chosen)
    for start in range(0, last, _PART):
        packed = connection.execute(query, {"first": start, "last": min(start + _PART, last)}).scalar_one()
        yield [RatedComment(*row) for row in zip(*msgspec.json.decode(packed), strict=True)]
