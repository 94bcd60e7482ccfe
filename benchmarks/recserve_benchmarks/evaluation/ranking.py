"""Rankings of all items from scores, and what a part of a dataset lets a system know."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from recserve_benchmarks.evaluation.split import Part
from recserve_server_ext.common.arrays import Floats, Ints, Mask, Scores, Vectors
from recserve_server_ext.history.features import select
from recserve_server_ext.index.engines.exact import best
from recserve_server_ext.interactions.columns import InteractionColumns

#: No item with this score is ranked.
NEVER: Final = np.float32(-np.inf)


@dataclass(frozen=True, eq=False)
class Known:
    """What systems may look at.

    Attributes:
        part: The question; its targets are not for systems.
        columns: All that is known, of all users.
        vectors: [items, dim] item vectors; zeros without a text.
    """

    part: Part
    columns: InteractionColumns
    vectors: Vectors

    @cached_property
    def histories(self) -> InteractionColumns:
        """What is known of the users asked about, in their order."""
        return of_users(self.columns, self.part.users)

    @cached_property
    def seen(self) -> Mask:
        """[n, items] What each user asked about has in the history."""
        seen = np.zeros((len(self.part.users), len(self.vectors)), np.bool_)
        seen[self.histories.user, self.histories.subject] = True
        return seen

    @property
    def with_history(self) -> Mask:
        """[n] Users with something known; the others are cold."""
        return np.asarray(self.seen.any(axis=1))

    @property
    def cold_items(self) -> Mask:
        """[items] Items that nobody is known to have turned to."""
        return np.asarray(self.popularity == 0)

    @cached_property
    def popularity(self) -> Floats:
        """[items] How many users are known to have turned to each item."""
        pairs = np.unique(self.columns.user * len(self.vectors) + self.columns.subject)
        return np.bincount(pairs % len(self.vectors), minlength=len(self.vectors)).astype(np.float64)


def known_to(part: Part, columns: InteractionColumns, vectors: Vectors) -> Known:
    """What systems may look at in this part."""
    return Known(part, select(columns, part.known), vectors)


def of_users(columns: InteractionColumns, users: Ints) -> InteractionColumns:
    """The interactions of some users (ascending) as if there were no others."""
    wanted = np.zeros(columns.users, np.bool_)
    wanted[users] = True
    chosen = select(columns, np.flatnonzero(wanted[columns.user]))
    lengths = np.diff(chosen.offsets)[users]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return InteractionColumns(**{**vars(chosen), "offsets": offsets})


def ranked(scores: Scores, known: Known, k: int) -> Ints:
    """[n, k] The best items that a user has not seen, best first; -1 where no more have a score.

    Equal scores are ordered by the part's random order.
    """
    order = known.part.order
    lowest = np.finfo(np.float32).min
    free = np.where(known.seen | ~np.isfinite(scores), lowest, scores).astype(np.float32)
    places, values = best(np.take_along_axis(free, order, axis=1), min(k, free.shape[1]))
    items: Ints = np.where(values > lowest, np.take_along_axis(order, places, axis=1), -1)
    return items
