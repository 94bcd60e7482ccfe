"""Splits of a log into what may be known and what is to be found, for one seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from recserve_benchmarks.errors import BenchmarkError
from recserve_server_ext.common.arrays import Floats, Ints, Mask
from recserve_server_ext.interactions.columns import InteractionColumns

Protocol = Literal["leave-one-out", "time"]
PROTOCOLS: Final[tuple[Protocol, ...]] = ("leave-one-out", "time")
#: Shares of the interactions before validation and before the test, by time.
_BEFORE: Final = (0.8, 0.9)


@dataclass(frozen=True, eq=False)
class Part:
    """A question to systems: from these interactions, which items do these users turn to next?

    Attributes:
        known: Places of the interactions that may be known, ascending: histories, and all that is fitted.
        users: [n] the users asked about, ascending.
        targets: [n, items] whether an item is to be found.
        order: [n, items] items in random order for each user: among equal scores the earlier one wins.
        asked_us: When all users ask, in microseconds since 1970; `None` where each asks right after the last known
            interaction.
    """

    known: Ints
    users: Ints
    targets: Mask
    order: Ints
    asked_us: int | None = None


@dataclass(frozen=True, eq=False)
class Split:
    """A part to choose settings on, and a later one to measure on; what the first asks for may be known to the test."""

    validation: Part
    test: Part


def split(columns: InteractionColumns, protocol: Protocol, seed: int) -> Split:
    """Split by a protocol.

    - leave-one-out: of each user the last interaction is the test, the last but one the validation. A user with fewer
      than three is in no validation, with fewer than two in no test. Random numbers order interactions of the same
      time. Each user asks right after the last known interaction: the time of what is to be found is not known.
    - time: the first 80% of the log by time are known to validation, the first 90% to the test. Interactions of the
      same time stay together. All new items of each user are to be found, asked for at the beginning of the part.

    Raises:
        BenchmarkError: Nothing is left to be found.
    """
    rng = np.random.default_rng(seed)
    if protocol == "leave-one-out":
        before = later_of_user(columns, rng.random(len(columns.time_us)))
        parts = [_part(columns, before > last, before == last, rng) for last in (1, 0)]
    else:
        times = np.sort(columns.time_us)
        first, second = (int(times[int(share * len(times))]) for share in _BEFORE)
        time_us = columns.time_us
        parts = [
            _part(columns, time_us < first, (time_us >= first) & (time_us < second), rng, first),
            _part(columns, time_us < second, time_us >= second, rng, second),
        ]
    return Split(*parts)


def later_of_user(columns: InteractionColumns, ties: Floats | Ints) -> Ints:
    """[interactions] How many interactions of the same user come later, where `ties` order those of the same time."""
    order = np.lexsort([ties, columns.time_us, columns.user])
    later = np.empty(len(order), np.int64)
    later[order] = np.repeat(columns.offsets[1:], np.diff(columns.offsets)) - 1 - np.arange(len(order))
    return later


def _part(
    columns: InteractionColumns,
    known: Mask,
    wanted: Mask,
    rng: np.random.Generator,
    asked_us: int | None = None,
) -> Part:
    users, items = columns.users, len(columns.subjects)
    targets = np.zeros((users, items), np.bool_)
    targets[columns.user[wanted], columns.subject[wanted]] = True
    targets[columns.user[known], columns.subject[known]] = False
    asked = np.flatnonzero(targets.any(axis=1))
    if not len(asked):
        raise BenchmarkError("nothing is left to be found: the dataset has too few interactions for this protocol")
    order = rng.permuted(np.tile(np.arange(items), (len(asked), 1)), axis=1)
    return Part(np.flatnonzero(known), asked, targets[asked], order, asked_us)
