"""Reads the comments that a classifier learns from: texts of users about items that they rated, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from recserve_export.errors import TrainingError
from recserve_export.stages import Stage, silent
from recserve_export.training.publish import Range
from recserve_export.training.store_log import microseconds
from recserve_server_ext.common.arrays import Mask
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.interactions import changes
from recserve_server_ext.interactions.columns import InteractionColumns, columns_by_user
from recserve_server_ext.interactions.comments import RatedComment, rated_comments
from recserve_server_ext.interactions.interaction import MEASURES
from recserve_server_ext.interactions.store import InteractionStore

#: Newest comments of a user that are learned from: nobody decides alone what a text means.
OF_USER: Final = 50
#: Fewest comments of each kind.
LEAST: Final = 20


class Comments(NamedTuple):
    """Rated interactions with a comment, sorted by user and time, the oldest first.

    Attributes:
        columns: The interactions; their positions are those of the other attributes.
        texts: [comments].
        is_positive: [comments] whether the rating is above the middle.
        number: Number of the last interaction of the store; later ones were not read.
        revision: Revision of the store.
    """

    columns: InteractionColumns
    texts: list[str]
    is_positive: Mask
    number: int
    revision: int

    @property
    def kinds(self) -> tuple[int, int]:
        """Numbers of positive and of negative comments."""
        return int(self.is_positive.sum()), int((~self.is_positive).sum())


def read_comments(
    store: InteractionStore, rules: HistoryRules, span: Range, most: int, stage: Stage = silent
) -> Comments:
    """Comments beside ratings that are above or below the middle of the scale: the newest of each user.

    Args:
        store: The store, in which there is nothing of erased users.
        rules: Say which types are ratings, and what the middle is.
        span: Interactions that are read.
        most: Comments of all users together at most, the newest.
        stage: Shows progress.

    Raises:
        TrainingError: There are too few.
        InteractionError: The store cannot be read.
    """
    since_us = microseconds(span.since) if span.since else 0
    until_us = microseconds(span.until) if span.until else 2**62
    middle = rules.rating.middle
    rows: list[RatedComment] = []
    with store.database.reading() as connection:
        number, revision = changes.last_number(connection), changes.revision(connection)
        with stage("read the comments", None) as advance:
            for part in rated_comments(connection, number, since_us, until_us, rules.rating.types):
                rows += [row for row in part if row.value != middle]
                if len(rows) > 2 * most:
                    rows = _bounded(rows, most)
                advance(len(part))
    rows = sorted(_bounded(rows, most), key=lambda row: (row.user, row.time_us))
    is_positive = np.array([row.value > middle for row in rows], np.bool_)
    positive, negative = int(is_positive.sum()), int((~is_positive).sum())
    if min(positive, negative) < LEAST:
        raise TrainingError(
            f"{positive:,} comments beside a rating above {middle:g} and {negative:,} below: at least {LEAST} of each "
            "are needed; record ratings with a text beside the item, or import them with --text-field COLUMN"
        )
    return Comments(_columns(rows), [row.text for row in rows], is_positive, number, revision)


def _bounded(rows: list[RatedComment], most: int) -> list[RatedComment]:
    """The newest comments of each user, and of these the newest of all."""
    rows = sorted(rows, key=lambda row: (row.user, row.time_us))
    users = np.array([row.user for row in rows], np.int64)
    newer = np.searchsorted(users, users, side="right") - np.arange(len(users))
    of_users = [rows[n] for n in np.flatnonzero(newer <= OF_USER).tolist()]
    return sorted(of_users, key=lambda row: row.time_us)[-most:]


def _columns(rows: Sequence[RatedComment]) -> InteractionColumns:
    item_of = {item: n for n, item in enumerate(dict.fromkeys(row.item for row in rows))}
    type_of = {name: n for n, name in enumerate(dict.fromkeys(row.type for row in rows))}
    measures = np.full((len(MEASURES), len(rows)), np.nan)
    measures[MEASURES.index("value")] = [row.value for row in rows]
    return columns_by_user(
        np.array([row.user for row in rows], np.int64),
        np.array([row.time_us for row in rows], np.int64),
        (np.array([type_of[row.type] for row in rows], np.int64), list(type_of)),
        (np.array([item_of[row.item] for row in rows], np.int64), list(item_of)),
        measures,
    )
