"""What a finished job says of its candidates: which there were, how they ranked, which were shown."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from recserve_client.contract import Slate
from recserve_server_ext.common.arrays import Rows
from recserve_server_ext.recommend.job import Job
from recserve_server_ext.recommend.merging import merged
from recserve_server_ext.recommend.ranked_items import RankedItems


class Steps:
    """A finished job, whose items were ranked in this batch, and its answer.

    Attributes:
        job: The job.
        slate: Its answer.
        ranked: All ranked items; the slate is a page of them, where the request asks for pages.
        shown: Rows of the slate.
    """

    def __init__(self, job: Job, slate: Slate) -> None:
        assert job.ranked is not None
        self.job = job
        self.slate = slate
        self.ranked: RankedItems = job.ranked if job.page is None else job.page.ranking.items
        self.shown: Rows = job.ranked.rows

    @cached_property
    def candidates(self) -> Rows:
        """Distinct candidates of all lists."""
        return np.asarray(np.unique(np.concatenate([one.candidates.rows for one in self.job.lists])))

    @cached_property
    def order(self) -> Rows:
        """Candidates with the minimum score, as the rules got them: by score, or interleaved by interests."""
        return self.job.lists[0].candidates.rows if self.job.is_plain else merged(self.job)[0].rows

    def rank(self, row: int) -> int:
        """Rank of a candidate, from 1; 0 where it has none."""
        places = np.flatnonzero(self.order == row)
        return int(places[0]) + 1 if len(places) else 0

    @cached_property
    def last_free_rank(self) -> int:
        """The last rank that was taken without the help of a rule or of exploration; 0 where none was."""
        rows = self.ranked.rows
        is_free = np.array([not names for names in self.ranked.rules or [[]] * len(rows)], np.bool_)
        if self.ranked.explored is not None:
            is_free &= ~self.ranked.explored
        return max(map(self.rank, rows[is_free].tolist()), default=0)
