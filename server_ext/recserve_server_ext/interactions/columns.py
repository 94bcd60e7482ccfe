"""Interactions of many users as columns, which the rules of a history work on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from recserve_server_ext.common.arrays import Floats, Ints, Mask


class InteractionRow(NamedTuple):
    """The part of an interaction that a history needs; see `recserve_server_ext.interactions.interaction`."""

    time_us: int
    type: str
    item: str | None
    text: str | None
    value: float | None
    duration_s: float | None
    price: float | None
    quantity: float | None


@dataclass(frozen=True, eq=False)
class InteractionColumns:
    """Interactions of many users; those of user u are at `offsets[u]` to `offsets[u + 1]`.

    Attributes:
        offsets: [users + 1].
        time_us: [interactions] microseconds since 1970.
        type: [interactions] index into `types`.
        subject: [interactions] index into `subjects`; equal for the same item or text.
        value: [interactions] NaN where there is none.
        duration_s: [interactions] NaN where there is none.
        price: [interactions] NaN where there is none.
        quantity: [interactions] NaN where there is none.
        types: Names of the types.
        subjects: Item ids, then texts.
        is_item: [subjects] whether a subject is an item.
        comments: Texts that users wrote about items, by position of the interaction; empty unless they were read.
    """

    offsets: Ints
    time_us: Ints
    type: Ints
    subject: Ints
    value: Floats
    duration_s: Floats
    price: Floats
    quantity: Floats
    types: list[str]
    subjects: list[str]
    is_item: Mask
    comments: Mapping[int, str] = field(default_factory=dict)

    @property
    def users(self) -> int:
        """Number of users."""
        return len(self.offsets) - 1

    @cached_property
    def user(self) -> Ints:
        """[interactions] index of the user of each."""
        return np.repeat(np.arange(self.users), np.diff(self.offsets))


def interaction_columns(users: Iterable[Sequence[InteractionRow]]) -> InteractionColumns:
    """Columns of the interactions of each user, in the order given."""
    offsets = [0]
    rows: list[InteractionRow] = []
    for of_user in users:
        rows.extend(of_user)
        offsets.append(len(rows))
    times, types, items, texts, *measures = zip(*rows, strict=True) if rows else [()] * len(InteractionRow._fields)
    of_text = [text for item, text in zip(items, texts, strict=True) if item is None]
    return columns_of(np.array(offsets, np.int64), times, types, items, of_text, np.array(measures, np.float64))


def columns_of(
    offsets: Ints,
    times: Sequence[int],
    names: Sequence[str],
    items: Sequence[str | None],
    texts: Sequence[str],
    measures: Floats,
) -> InteractionColumns:
    """Columns of interactions that are given field by field.

    Args:
        offsets: [users + 1] where the interactions of each user begin.
        times: [interactions] microseconds since 1970.
        names: [interactions] types.
        items: [interactions] item ids; `None` for an interaction about a text.
        texts: The texts of the interactions without an item, in their order.
        measures: [4, interactions] value, duration_s, price and quantity; NaN where there is none.
    """
    type_codes, type_names = _codes(names)
    text_codes, text_names = _codes(texts)
    if texts:
        is_text = np.array([item is None for item in items], np.bool_)
        item_codes, item_names = _codes([item for item in items if item is not None])
        subject = np.empty(len(items), np.int64)
        subject[~is_text], subject[is_text] = item_codes, len(item_names) + text_codes
    else:
        subject, item_names = _codes(items)
    return InteractionColumns(
        offsets,
        np.array(times, np.int64),
        type_codes,
        subject,
        value=measures[0],
        duration_s=measures[1],
        price=measures[2],
        quantity=measures[3],
        types=type_names,
        subjects=[*item_names, *text_names],
        is_item=np.arange(len(item_names) + len(text_names)) < len(item_names),
    )


def columns_by_user(
    user: Ints, time_us: Ints, types: tuple[Ints, list[str]], items: tuple[Ints, list[str]], measures: Floats
) -> InteractionColumns:
    """Columns of interactions with items, sorted by user; the others keep their order.

    Args:
        user: [interactions] number of the user; users without interactions get no place.
        time_us: [interactions] microseconds since 1970.
        types: [interactions] codes, and the names of the types.
        items: [interactions] codes, and the item ids.
        measures: [4, interactions] value, duration_s, price and quantity; NaN where there is none.
    """
    order = np.argsort(user, kind="stable")
    _, lengths = np.unique(user, return_counts=True)
    value, duration_s, price, quantity = measures[:, order]
    return InteractionColumns(
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        time_us=time_us[order],
        type=types[0][order],
        subject=items[0][order],
        value=value,
        duration_s=duration_s,
        price=price,
        quantity=quantity,
        types=types[1],
        subjects=items[1],
        is_item=np.ones(len(items[1]), np.bool_),
    )


def among(comments: Mapping[int, str], places: Ints) -> dict[int, str]:
    """The comments at some positions, by their number there."""
    if not comments:
        return {}
    return {n: comments[place] for n, place in enumerate(places.tolist()) if place in comments}


def _codes(names: Sequence[Any]) -> tuple[Ints, list[str]]:
    """[names] number of each name, and the names by number, in the order in which they first occur."""
    code_of: defaultdict[str, int] = defaultdict()
    # A name that is looked up for the first time gets the next number.
    code_of.default_factory = code_of.__len__
    return np.fromiter(map(code_of.__getitem__, names), np.int64, len(names)), list(code_of)
