"""What a part of a log lets a system know, and rankings of all items from scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np

from recserve_benchmarks.evaluation.split import Part
from recserve_export.training.ranking.past import of_users, pair_matrix
from recserve_export.training.ranking.questions import Lists
from recserve_server_ext.common.arrays import Floats, Ints, Mask, Scores, Vectors
from recserve_server_ext.history.features import select
from recserve_server_ext.index.engines.exact import best
from recserve_server_ext.interactions.columns import InteractionColumns

#: No item with this score is ranked.
NEVER: Final = np.float32(-np.inf)
#: Length of a ranking.
LENGTH: Final = 20


@dataclass(frozen=True, eq=False)
class Known:
    """What systems may look at.

    Attributes:
        part: The question; its targets are not for systems.
        columns: All that is known, of all users.
        vectors: [items, dim] unit item vectors; zeros without a text.
        states: What trainings learned of the part before, by name, to go on from.
        found: Settings that trainings of other parts searched, by the names of trainings.
        lists: What a ranker learns from; `None` where it makes that from the log.
    """

    part: Part
    columns: InteractionColumns
    vectors: Vectors
    states: Mapping[str, Any] = field(default_factory=dict)
    found: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    lists: Sequence[Lists] | None = None

    @property
    def items(self) -> int:
        """Number of items."""
        return len(self.vectors)

    @cached_property
    def histories(self) -> InteractionColumns:
        """What is known of the users asked about, in their order."""
        return of_users(self.columns, self.part.users)

    @cached_property
    def seen(self) -> Any:
        """Sparse [n, items] what each user asked about has in the history."""
        shape = len(self.part.users), self.items
        return pair_matrix(self.histories.user, self.histories.subject, shape)

    @cached_property
    def activity(self) -> Ints:
        """[n] number of known interactions of each user asked about; 0 for cold users."""
        return np.diff(self.histories.offsets)

    @cached_property
    def popularity(self) -> Floats:
        """[items] number of users who are known to have turned to each item."""
        pairs = np.unique(self.columns.user * self.items + self.columns.subject)
        return np.bincount(pairs % self.items, minlength=self.items).astype(np.float64)

    @cached_property
    def first_us(self) -> Ints:
        """[items] time of the first known interaction with each item; the greatest integer for cold items."""
        first = np.full(self.items, np.iinfo(np.int64).max)
        np.minimum.at(first, self.columns.subject, self.columns.time_us)
        return first


def known_to(part: Part, columns: InteractionColumns, vectors: Vectors, **learned: Any) -> Known:
    """What systems may look at in this part, beside what is learned from other parts: see `Known`."""
    return Known(part, select(columns, np.flatnonzero(part.known)), vectors, **learned)


def ranked(scores: Scores, known: Known, users: Ints, k: int) -> Ints:
    """[n, k] The best items that a user has not seen, best first; -1 where no more have a score.

    Equal scores are in random order, the same for the users of one call.

    Args:
        scores: [n, items] of these users; overwritten.
        users: [n] places of the users in the part, ascending.
        k: Length of a ranking.
    """
    lowest = np.finfo(np.float32).min
    seen = known.seen[users].tocoo()
    scores[seen.row, seen.col] = lowest
    if known.part.candidates is not None:
        scores[:, ~known.part.candidates] = lowest
    np.maximum(scores, lowest, out=scores)
    order = np.random.default_rng([known.part.seed, *users[:1].tolist()]).permutation(known.items)
    places, values = best(scores.T[order], min(k, known.items))
    items = np.full((len(users), k), -1, np.int64)
    items[:, : places.shape[1]] = np.where(values > lowest, order[places], -1)
    return items


def item_popularity_groups(known: Known) -> dict[str, Mask]:
    """[items] the most popular items with half of all pairs of a user and an item, the next 30%, and the rest."""
    order = np.argsort(-known.popularity, kind="stable")
    share = np.empty(known.items)
    share[order] = (np.cumsum(known.popularity[order]) - known.popularity[order]) / max(known.popularity.sum(), 1.0)
    is_known = known.popularity > 0
    head, middle = share < 0.5, (share >= 0.5) & (share < 0.8)
    return {"head": head & is_known, "middle": middle & is_known, "tail": (share >= 0.8) & is_known}


def item_age_groups(known: Known) -> dict[str, Mask]:
    """[items] the fifth of the known items whose first interaction is the newest, and the older ones."""
    is_known = known.popularity > 0
    if not is_known.any():
        return {"new": is_known, "old": is_known}
    since = np.quantile(known.first_us[is_known], 0.8)
    return {"new": is_known & (known.first_us > since), "old": is_known & (known.first_us <= since)}
