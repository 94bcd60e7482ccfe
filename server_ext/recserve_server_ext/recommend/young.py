"""Places for items that are younger than the last training, so that something is learned of them.

They are ranked by `ease` over the whole history: there an item without interactions has the vector that a ridge
regression gives its text, which by leave-one-out finds such items better than other strategies do
(docs/results/quality.md). Where that is not trained, the strategy of the request ranks them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

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
#: The strategy that ranks young items, and its options: no behaviour is too old.
STRATEGY: Final = "ease"
OPTIONS: Final[Mapping[str, Any]] = {"half_life": 1e6}


class YoungPlaces(NamedTuple):
    """Places of a slate for young items.

    Attributes:
        share: See `ServeSettings.young_share`.
        configured: The strategy that ranks them.
    """

    share: float
    configured: ConfiguredStrategy

    def lists(self, lists: Sequence[CandidateList]) -> list[CandidateList]:
        """The lists as this strategy is asked; unchanged where it is not trained or cannot use a profile."""
        strategy, options = self.configured
        own = [CandidateList(one.query.with_options(options), self.configured) for one in lists]
        trained = [place for place, one in enumerate(own) if strategy.lacking(one.query.data, options) is None]
        found = list(lists)
        reasons = strategy.cold([own[place].query for place in trained]) if trained else []
        for place, reason in zip(trained, reasons, strict=True):
            found[place] = own[place] if reason is None else lists[place]
        return found


def young_places(share: float, registry: Registry) -> YoungPlaces | None:
    """The places for young items that the settings ask for; `None` where they ask for none."""
    return YoungPlaces(share, registry.component(STRATEGY, OPTIONS)) if share else None


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
