"""Splits: what may be known, and what is to be found. Every one holds for one seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from recserve_benchmarks.errors import BenchmarkError
from recserve_server_ext.common.arrays import Ints
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
        order: [n, items] each user's items in random order: among equal scores the earlier one wins.
        asked_us: When they all ask, in microseconds since 1970; none = each right after the last known interaction.
    """

    known: Ints
    users: Ints
    targets: NDArray[np.bool_]
    order: Ints
    asked_us: int | None = None


@dataclass(frozen=True, eq=False)
class Split:
    """A part to choose hyperparameters on, and a later part that only measures.

    Attributes:
        validation: To choose on.
        test: To measure on; what was to be found in `validation` may be known here.
    """

    validation: Part
    test: Part


def split(columns: InteractionColumns, protocol: Protocol, seed: int) -> Split:
    """Split by a protocol.

    - leave-one-out: of each user the last interaction is the test, the last but one the validation; a user with fewer
      than three is in no validation, with fewer than two in no test. Random numbers order what has the same time.
      Each asks right after the last known interaction: the time of what is to be found is not known.
    - time: interactions before the first 80 % of the time-ordered log are known to validation, those before 90 % to
      the test; what comes at the same time stays together. Of each user all new items are to be found, asked for at
      the beginning of the part.

    Raises:
        BenchmarkError: Nothing is left to be found.
    """
    rng = np.random.default_rng(seed)
    if protocol == "leave-one-out":
        before = _places_from_end(columns, rng)
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


def _places_from_end(columns: InteractionColumns, rng: np.random.Generator) -> Ints:
    """[events] How many interactions of the user come later."""
    order = np.lexsort([rng.random(len(columns.time_us)), columns.time_us, columns.user])
    later = np.empty(len(order), np.int64)
    later[order] = np.repeat(columns.offsets[1:], np.diff(columns.offsets)) - 1 - np.arange(len(order))
    return later


def _part(
    columns: InteractionColumns,
    known: NDArray[np.bool_],
    wanted: NDArray[np.bool_],
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
