"""Places for items that are younger than the last training, so that something is learned of them.

They are ranked by the first strategy that says it can (`Strategy.for_new_items`), is trained, and can use the profile;
where there is none, by the strategy of the request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from recserve_server_ext.common.arrays import Rows
from recserve_server_ext.recommend.job import CandidateList, Job
from recserve_server_ext.recommend.ranked_items import RankedItems
from recserve_server_ext.strategies.base import ConfiguredStrategy
from recserve_server_ext.strategies.registry import Registry

#: Name of the rule in an answer.
YOUNG: Final = "young"
#: Young items that are scored for a slate, those that came last.
_MOST: Final = 1000


class YoungPlaces(NamedTuple):
    """Places of a slate for young items.

    Attributes:
        share: See `ServeSettings.young_share`.
        rankers: The strategies that rank them; the first one that can counts.
    """

    share: float
    rankers: Sequence[ConfiguredStrategy]

    def lists(self, lists: Sequence[CandidateList]) -> list[CandidateList]:
        """The lists as these strategies are asked; unchanged where none is trained or can use a profile."""
        found, left = list(lists), list(range(len(lists)))
        for configured in self.rankers:
            strategy, options = configured
            own = {place: CandidateList(lists[place].query.with_options(options), configured) for place in left}
            trained = [place for place in left if strategy.lacking(own[place].query.data, options) is None]
            reasons = strategy.cold([own[place].query for place in trained]) if trained else []
            usable = {place for place, reason in zip(trained, reasons, strict=True) if reason is None}
            for place in usable:
                found[place] = own[place]
            left = [place for place in left if place not in usable]
        return found


def young_places(share: float, registry: Registry) -> YoungPlaces | None:
    """The places for young items that the settings ask for; `None` where they ask for none."""
    if not share:
        return None
    options = registry.new_item_options()
    return YoungPlaces(share, [registry.component(name, given) for name, given in options.items()])


def wanted(job: Job, share: float) -> int:
    """Number of young items that a slate is still to get; 0 for pages and for slates with limits of groups."""
    has_groups = job.options is not None and bool(job.options.groups)
    if job.ranked is None or job.request.page is not None or has_groups or job.is_cold:
        return 0
    there = int(job.data.view.young[job.ranked.rows[: job.request.k]].sum())
    return max(0, int(share * job.request.k) - there)


def young_rows(job: Job) -> Rows:
    """The young items that may be recommended and are not in the slate, the newest first."""
    assert job.ranked is not None
    rows = np.flatnonzero(job.data.view.young & job.lists[0].query.usable)
    return np.asarray(np.setdiff1d(rows, job.ranked.rows)[-_MOST:][::-1])


def placed(job: Job, best: Rows) -> RankedItems:
    """The slate with young items in its last places, but not in those that rules filled.

    Args:
        job: Its slate is ranked.
        best: Young items to place, the best first.
    """
    ranked = job.ranked
    assert ranked is not None
    rules = ranked.rules or [[] for _ in ranked.rows]
    free = [place for place, names in enumerate(rules) if not names and not job.data.view.young[ranked.rows[place]]]
    over = max(0, len(ranked.rows) + len(best) - job.request.k)
    given_up = free[len(free) - over :] if over else []
    best = best[: len(best) - over + len(given_up)]
    kept = np.setdiff1d(np.arange(len(ranked.rows)), given_up)
    rows = np.concatenate([ranked.rows[kept], best])
    more = len(best)
    return RankedItems(
        rows,
        None if ranked.source is None else np.concatenate([ranked.source[kept], np.zeros(more, np.int64)]),
        [rules[place] for place in kept.tolist()] + [[YOUNG]] * more,
        None if ranked.explored is None else np.concatenate([ranked.explored[kept], np.zeros(more, np.bool_)]),
        None if ranked.propensity is None else np.concatenate([ranked.propensity[kept], np.ones(more)]),
    )
