"""Interactions of many users as columns: what the rules of a history work on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class EventRow(NamedTuple):
    """One interaction, as far as a history needs it; see `recserve_server_ext.interaction.Interaction`."""

    time_us: int
    type: str
    item: str | None
    text: str | None
    value: float | None
    duration_s: float | None
    price: float | None
    quantity: float | None


@dataclass(frozen=True, eq=False)
class EventColumns:
    """Interactions of many users. Those of user u are at `offsets[u]` to `offsets[u + 1]`.

    Attributes:
        offsets: [users + 1].
        time_us: [events] microseconds since 1970.
        type: [events] place in `types`.
        subject: [events] place in `subjects`; the same item or text has the same one.
        value: [events] NaN where there is none; so the next three.
        duration_s: [events].
        price: [events].
        quantity: [events].
        types: Names of the types.
        subjects: Item ids and texts.
        is_item: [subjects] Whether a subject is an item.
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
    is_item: NDArray[np.bool_]

    @property
    def users(self) -> int:
        """Number of users."""
        return len(self.offsets) - 1

    @property
    def user(self) -> Ints:
        """[events] Place of the user of each."""
        return np.repeat(np.arange(self.users), np.diff(self.offsets))


def event_columns(users: Iterable[Sequence[EventRow]]) -> EventColumns:
    """Columns of the interactions of each user, in the order given."""
    offsets = [0]
    rows: list[EventRow] = []
    for of_user in users:
        rows.extend(of_user)
        offsets.append(len(rows))
    return columns_of(_ints(offsets), list(zip(*rows, strict=True)) if rows else [()] * len(EventRow._fields))


def columns_of(offsets: Ints, fields: Sequence[Sequence[Any]]) -> EventColumns:
    """Columns of interactions that are there by field, in the order of `EventRow`.

    Args:
        offsets: [users + 1] where the interactions of each user begin.
        fields: [fields][events].
    """
    times, names, items, texts, *numbers = fields
    type_codes: dict[str, int] = {}
    codes: dict[tuple[bool, str], int] = {}
    types = [type_codes.setdefault(name, len(type_codes)) for name in names]
    pairs = zip(items, texts, strict=True)
    subjects = [
        codes.setdefault((item is not None, text if item is None else item), len(codes)) for item, text in pairs
    ]
    value, duration_s, price, quantity = (np.array(column, np.float64) for column in numbers)  # none becomes NaN
    return EventColumns(
        offsets=offsets,
        time_us=_ints(times),
        type=_ints(types),
        subject=_ints(subjects),
        value=value,
        duration_s=duration_s,
        price=price,
        quantity=quantity,
        types=list(type_codes),
        subjects=[name for _, name in codes],
        is_item=np.array([is_item for is_item, _ in codes], np.bool_),
    )


def _ints(values: Sequence[Any]) -> Ints:
    return np.array(values, np.int64)
