"""Parts of a log: what may be known, and what is to be found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from scipy import sparse

from recserve_export.training.ranking.past import later_of_user
from recserve_server_ext.common.arrays import Ints, Mask
from recserve_server_ext.interactions.columns import InteractionColumns

Protocol = Literal["leave_one_out", "time"]
PROTOCOLS: Final[tuple[Protocol, ...]] = ("leave_one_out", "time")
#: Shares of the interactions before each cut, by time. The first cut is only for validation.
CUTS: Final = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
#: Share of the items that are held out of what is known, to measure new items.
_HELD_OUT: Final = 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """A question to systems: from these interactions, which items do these users turn to next?

    Attributes:
        name: Shown while it is measured.
        known: [interactions] which may be known: histories, and all that is learned.
        users: [n] the users asked about, ascending.
        targets: Sparse [n, items] bool: whether an item is to be found.
        seed: Orders items of equal scores.
        asked_us: When all users ask, in microseconds since 1970; `None` where each asks right after the last known
            interaction.
        candidates: [items] that may be ranked; `None` for all.
        is_validation: Whether settings are chosen by it, for later parts.
        is_test: Whether figures are measured on it.
        asked: Number of users that `users` are a sample of.
    """

    name: str = ""
    known: Mask
    users: Ints
    targets: Any
    seed: int = 0
    asked_us: int | None = None
    candidates: Mask | None = None
    is_validation: bool = False
    is_test: bool = False
    asked: int = 0


@dataclass(frozen=True, eq=False)
class Splitter:
    """Makes the parts of a log, one after the other.

    A part that asks for nothing, or of which nothing is known, is left out.

    Attributes:
        columns: The log.
        seeds: Of what breaks ties, in time and in scores.
        most_users: Users of a part at most; a larger number is sampled.
        cuts: Shares of the interactions before each cut, rising; the first is only for validation.
    """

    columns: InteractionColumns
    seeds: Sequence[int] = (0,)
    most_users: int | None = None
    cuts: Sequence[float] = CUTS

    def parts(self, protocol: Protocol) -> Iterator[Part]:
        """The parts of a protocol, validation before test.

        - leave_one_out: of each user the last interaction is the test, the last but one the validation. Random numbers
          order interactions of the same time, anew for each seed. Each user asks right after the last known
          interaction: the time of what is to be found is not known.
        - time: rolling cuts. What came before a cut is known, and the new items of each user in the next tenth of the
          log are to be found, asked for at the cut. Each cut is the validation of the later ones.
        """
        found = self._leave_one_out() if protocol == "leave_one_out" else self._rolling()
        return (part for part in found if part is not None)

    def held_out(self) -> Iterator[Part]:
        """Cold items: a tenth of the items is unknown to all, and only these are ranked."""
        rng = np.random.default_rng(self.seeds[0])
        items = np.unique(self.columns.subject)
        chosen = rng.choice(items, max(1, round(_HELD_OUT * len(items))), replace=False)
        is_out = np.zeros(len(self.columns.subjects), np.bool_)
        is_out[chosen] = True
        wanted = is_out[self.columns.subject]
        part = self._part("cold items", ~wanted, wanted, self.seeds[0], candidates=is_out, is_test=True)
        if part is not None:
            yield part

    def _leave_one_out(self) -> Iterator[Part | None]:
        for seed in self.seeds:
            later = later_of_user(self.columns, np.random.default_rng(seed).random(len(self.columns.time_us)))
            if seed == self.seeds[0]:
                yield self._part("validation", later > 1, later == 1, seed, is_validation=True)
            yield self._part(f"test, seed {seed}", later > 0, later == 0, seed, is_test=True)

    def _rolling(self) -> Iterator[Part | None]:
        time_us = self.columns.time_us
        times = np.sort(time_us)
        ends = [*(int(times[int(share * len(times))]) for share in self.cuts), int(times[-1]) + 1]
        for share, start, end in zip(self.cuts, ends, ends[1:], strict=False):
            kinds = {"is_validation": share != self.cuts[-1], "is_test": share != self.cuts[0]}
            wanted = (time_us >= start) & (time_us < end)
            yield self._part(f"cut at {share:.0%}", time_us < start, wanted, self.seeds[0], asked_us=start, **kinds)

    def _part(self, name: str, known: Mask, wanted: Mask, seed: int, **fields: Any) -> Part | None:
        columns, items = self.columns, len(self.columns.subjects)
        every_user = columns.user
        pairs = np.unique(every_user[wanted] * items + columns.subject[wanted])
        pairs = pairs[~np.isin(pairs, every_user[known] * items + columns.subject[known])]
        if not len(pairs) or not known.any():
            return None
        user_of, item_of = np.divmod(pairs, items)
        users = np.unique(user_of)
        asked = len(users)
        if self.most_users is not None and asked > self.most_users:
            users = np.sort(np.random.default_rng(seed).choice(users, self.most_users, replace=False))
            is_kept = np.isin(user_of, users)
            user_of, item_of = user_of[is_kept], item_of[is_kept]
        places = np.searchsorted(users, user_of), item_of
        targets = sparse.csr_array((np.ones(len(user_of), np.bool_), places), (len(users), items))
        return Part(name=name, known=known, users=users, targets=targets, seed=seed, asked=asked, **fields)
