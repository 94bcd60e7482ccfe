"""Reads the whole interaction store as columns, to train on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, NamedTuple

import numpy as np
import psutil

from recserve_export.errors import TrainingError
from recserve_export.stages import Stage, silent
from recserve_export.training.ranking.answers import Answers, read_answers
from recserve_server_ext.common.arrays import Ints
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.interactions import changes, reads
from recserve_server_ext.interactions.columns import InteractionColumns, columns_by_user
from recserve_server_ext.interactions.interaction import MEASURES
from recserve_server_ext.interactions.store import InteractionStore

#: Memory that reading and weighing takes at most, for each interaction.
_BYTES: Final = 500
_GIB: Final = 2**30


class StoreLog(NamedTuple):
    """What was read of a store.

    Attributes:
        columns: Interactions with items, by user; those of erased users are not in the store.
        number: Number of the last interaction; later ones were not read.
        revision: Revision of the store.
        answers: Logged answers to these users that something can be learned from.
    """

    columns: InteractionColumns
    number: int
    revision: int
    answers: Answers


def read_log(
    store: InteractionStore,
    since: datetime | None = None,
    until: datetime | None = None,
    *,
    last: int | None = None,
    stage: Stage = silent,
) -> StoreLog:
    """All interactions with items of a range of time, as of one moment.

    Args:
        store: The store; what is written to it meanwhile is not seen.
        since: Begin of the range; `None` without.
        until: End of the range; `None` without.
        last: Number of the last interaction to read; `None` for all.
        stage: Shows progress.

    Raises:
        TrainingError: It does not fit into memory.
        InteractionError: The store cannot be read.
    """
    since_us, until_us = (microseconds(since) if since else 0), (microseconds(until) if until else 2**62)
    with store.database.reading() as connection:
        number, revision = changes.last_number(connection), changes.revision(connection)
        number = number if last is None else min(number, last)
        check_memory(bytes_to_read(number), f"reading {number:,} interactions")
        item_of: dict[str, int] = {}
        type_of: dict[str, int] = {}
        parts: list[list[Ints]] = []
        measures = []
        with stage("read the log", number) as advance:
            for users, items, types, times, *values in reads.log_columns(connection, number, since_us, until_us):
                codes = [item_of.setdefault(item, len(item_of)) for item in items]
                kinds = [type_of.setdefault(name, len(type_of)) for name in types]
                parts.append([np.array(column, np.int64) for column in (users, codes, kinds, times)])
                measures.append(np.array(values, np.float64))
                advance(len(users))
        numbers = np.unique(np.concatenate([part[0] for part in parts])) if parts else np.empty(0, np.int64)
        answers = read_answers(connection, numbers, list(item_of))
    joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)] if parts else [np.empty(0, np.int64)] * 4
    measured = np.concatenate(measures, axis=1) if measures else np.empty((len(MEASURES), 0))
    user, item, kind, time_us = joined
    columns = columns_by_user(user, time_us, (kind, list(type_of)), (item, list(item_of)), measured)
    # What came after the last interaction waits for the next training.
    end_us = min(until_us, int(time_us.max(initial=0)) + 1)
    return StoreLog(columns, number, revision, answers.between(since_us, end_us))


def bytes_to_read(interactions: int) -> int:
    """Memory that reading and weighing so many interactions takes at most."""
    return interactions * _BYTES


def check_memory(needed: int, what: str) -> None:
    """Raise TrainingError where so many bytes are not free."""
    free = psutil.virtual_memory().available
    if needed > free:
        raise TrainingError(
            f"{what} takes {needed / _GIB:.1f} GiB of memory, and {free / _GIB:.1f} GiB are free; train on less, as "
            "with --since, or on a larger machine"
        )


def microseconds(time: datetime) -> int:
    """A time in UTC as microseconds since 1970."""
    return round(time.replace(tzinfo=UTC).timestamp() * MICROSECONDS)
