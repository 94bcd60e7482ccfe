"""Parts of a log: what may be known, and what is to be found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from scipy import sparse

from recserve_export.training.ranking.past import later_of_user
from recserve_server_ext.common.arrays import Floats, Ints, Mask
from recserve_server_ext.history.features import select
from recserve_server_ext.interactions.columns import InteractionColumns

Protocol = Literal["leave_one_out", "time"]
PROTOCOLS: Final[tuple[Protocol, ...]] = ("leave_one_out", "time")
#: Shares of the interactions before each cut, by time. The first third is only for validation.
CUTS: Final = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
#: Shares before the first cut: of what came after these, a ranker learns, and nothing is measured.
_EARLIER: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
#: Shares of the interactions that everybody knows by leave-one-out, after which a ranker learns from the next tenth.
_LEARNED: Final = (0.5, 0.6, 0.7, 0.8, 0.9)
#: The same where a tenth of the items is unknown.
_LEARNED_COLD: Final = (0.8, 0.9)
#: Numbers of the cuts from which on a ranker learns also from the last item of each user before them.
_VISITS: Final = (0, 4)
#: Blocks of one user's rows, for each user, in a log that is sorted by user.
_MOST_BLOCKS: Final = 1.05
#: Share of the items that are held out of what is known, to measure new items.
_HELD_OUT: Final = 0.1


def is_by_user(columns: InteractionColumns) -> bool:
    """Whether a log has one user after the other: its times are the order of rows that were sorted by user.

    Then time says nothing across users: after any cut nearly all of them are cold.
    """
    in_time = columns.user[np.argsort(columns.time_us, kind="stable")]
    users = int((np.diff(columns.offsets) > 0).sum())
    blocks = 1 + int(np.count_nonzero(np.diff(in_time)))
    return len(in_time) >= 2 * users and blocks <= _MOST_BLOCKS * users and users > 1


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
        before: Name of an earlier part, all of which is known here, too: what trainings can go on from.
        lists: Names of earlier parts whose questions a ranker may learn from.
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
    before: str | None = None
    lists: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Splitter:
    """Makes the parts of a log, one after the other.

    A part that asks for nothing, or of which nothing is known, is left out.

    Attributes:
        columns: The log.
        seeds: Of what breaks ties, in time and in scores.
        most_users: Users of a part at most; a larger number is sampled.
        cuts: Shares of the interactions before each cut, rising; the first third is only for validation.
    """

    columns: InteractionColumns
    seeds: Sequence[int] = (0,)
    most_users: int | None = None
    cuts: Sequence[float] = CUTS

    def parts(self, protocol: Protocol) -> list[Part]:
        """The parts of a protocol, in an order in which each follows those that it learns from.

        - leave_one_out: of each user the last interaction is the test, the last but one the validation. Random numbers
          order interactions of the same time, anew for each seed. Each user asks right after the last known
          interaction: the time of what is to be found is not known. At the end a tenth of the items, another one for
          each seed, is unknown to all, and only these are ranked: cold items.
        - time: rolling cuts. What came before a cut is known, and the new items of each user in the next tenth of the
          log are to be found, asked for at the cut. Each cut is the validation of the later ones.

        Parts that are neither a validation nor a test are there to learn from: a ranker learns from the questions of
        `Part.lists`, and what is trained slowly goes on from `Part.before`. Nothing that a part knows or asks for is
        unknown to a part that learns from it.
        """
        found = self._leave_one_out() if protocol == "leave_one_out" else self._rolling()
        parts = [part for part in found if part is not None]
        names = {part.name for part in parts}
        return [
            replace(
                part,
                before=part.before if part.before in names else None,
                lists=tuple(name for name in part.lists if name in names),
            )
            for part in parts
        ]

    def _leave_one_out(self) -> Iterator[Part | None]:
        columns = self.columns
        later = {
            seed: later_of_user(columns, np.random.default_rng(seed).random(len(columns.time_us)))
            for seed in self.seeds
        }
        first = self.seeds[0]
        shared = np.all([of > 1 for of in later.values()], axis=0)
        cuts = tuple(self._cuts("shared by all, ", shared, _LEARNED))
        yield from cuts
        lists = tuple(part.name for part in cuts if part is not None)
        yield self._part("shared by all", shared, ~shared, first)
        yield self._part("visits, validation", later[first] > 2, later[first] == 2, first)
        kinds: dict[str, Any] = {"is_validation": True, "lists": (*lists, "visits, validation")}
        yield self._part("validation", later[first] > 1, later[first] == 1, first, before="shared by all", **kinds)
        for seed in self.seeds:
            visits = "validation"
            if seed != first:
                visits = f"visits, seed {seed}"
                yield self._part(visits, later[seed] > 1, later[seed] == 1, seed)
            kinds = {"is_test": True, "lists": (*lists, visits), "before": "shared by all"}
            yield self._part(f"test, seed {seed}", later[seed] > 0, later[seed] == 0, seed, **kinds)
        for seed in self.seeds:
            yield from self._held_out(seed)

    def _held_out(self, seed: int) -> Iterator[Part | None]:
        rng = np.random.default_rng(seed)
        items = np.unique(self.columns.subject)
        chosen = rng.choice(items, max(1, round(_HELD_OUT * len(items))), replace=False)
        is_out = np.zeros(len(self.columns.subjects), np.bool_)
        is_out[chosen] = True
        wanted = is_out[self.columns.subject]
        cuts = tuple(self._cuts(f"without cold items of seed {seed}, ", ~wanted, _LEARNED_COLD))
        yield from cuts
        lists = tuple(part.name for part in cuts if part is not None)
        kinds = {"candidates": is_out, "is_test": True, "lists": lists}
        yield self._part(f"cold items of seed {seed}", ~wanted, wanted, seed, **kinds)

    def _rolling(self) -> Iterator[Part | None]:
        every = np.ones(len(self.columns.time_us), np.bool_)
        shares = (*(share for share in _EARLIER if share < self.cuts[0]), *self.cuts)
        later = np.random.default_rng(self.seeds[0]).random(len(every))
        learned: list[str] = []
        measured: str | None = None
        for share, part in zip(shares, self._cuts("", every, shares), strict=True):
            if part is None:
                continue
            if share in self.cuts and self.cuts.index(share) in _VISITS:
                visits = self._visits(f"visits before {share:.0%}", part, later)
                learned += [] if visits is None else [visits.name]
                yield visits
            is_validation, is_test = share in self.cuts[:-1], share in self.cuts[max(1, len(self.cuts) // 3) :]
            if is_validation or is_test:
                lists = tuple(learned)
                yield replace(part, lists=lists, before=measured, is_validation=is_validation, is_test=is_test)
                measured = part.name
            else:
                yield part
            learned.append(part.name)

    def _cuts(self, prefix: str, among: Mask, shares: Sequence[float]) -> Iterator[Part | None]:
        """At each of these shares of some interactions: what came before, and the new items up to the next one."""
        time_us = self.columns.time_us
        times = np.sort(time_us[among])
        if not len(times):
            return
        ends = [*(int(times[int(share * len(times))]) for share in shares), int(times[-1]) + 1]
        for share, start, end in zip(shares, ends, ends[1:], strict=False):
            wanted = among & (time_us >= start) & (time_us < end)
            name = f"{prefix}cut at {share:.0%}"
            yield self._part(name, among & (time_us < start), wanted, self.seeds[0], asked_us=start)

    def _visits(self, name: str, part: Part, ties: Floats) -> Part | None:
        """The last item of each user among what is known in a part, asked for right after the one before."""
        known = np.flatnonzero(part.known)
        is_last = later_of_user(select(self.columns, known), ties[known]) == 0
        wanted = np.zeros(len(part.known), np.bool_)
        wanted[known[is_last]] = True
        return self._part(name, part.known & ~wanted, wanted, part.seed)

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
