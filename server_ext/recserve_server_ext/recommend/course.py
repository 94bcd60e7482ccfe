"""A job on its way through the stages of the pipeline: its lists of candidates, and what was chosen of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from recserve_server_ext.attributes.boosts import boost_shares
from recserve_server_ext.common.arrays import Floats, Ints, Rows
from recserve_server_ext.recommend.picks import Picks
from recserve_server_ext.recommend.query import Job
from recserve_server_ext.strategies.base import Candidates, Query
from recserve_server_ext.strategies.registry import Chosen

_NO_ROWS = np.empty(0, np.int64)
_NO_SCORES = np.empty(0)


@dataclass(slots=True, eq=False)
class Line:
    """One list of candidates for a job: that of an interest cluster, or the only one.

    Attributes:
        query: What its strategy is asked.
        chosen: The strategy.
        number: Of the interest cluster.
        share: Part of the history that it is made from.
        found: Its candidates.
        scores: [n] of the candidates.
    """

    query: Query
    chosen: Chosen
    number: int = 0
    share: float = 1.0
    found: Candidates = field(default_factory=lambda: Candidates(_NO_ROWS))
    scores: Floats = field(default_factory=lambda: _NO_SCORES)


@dataclass(slots=True, eq=False)
class Course:
    """A job on its way through the stages.

    Attributes:
        job: The job.
        lines: Its lists of candidates.
        is_cold: Whether nothing usable is known of the user.
        labels: [behaviours] interest cluster of each behaviour; `None` where they were not asked for.
        picks: The items of the slate.
    """

    job: Job
    lines: list[Line]
    is_cold: bool = False
    labels: Ints | None = None
    picks: Picks | None = None

    @property
    def masses(self) -> list[float]:
        """Part of each interest cluster in the history."""
        if len(self.lines) == 1:
            return [1.0]
        whole = sum(line.share for line in self.lines)
        return [line.share / whole for line in self.lines]


def added_shares(job: Job, rows: Rows) -> Floats | None:
    """[rows, boosts and new items] what a request adds to the scores of rows; `None` when it adds nothing."""
    boosts = [] if job.options is None else list(job.options.boosts)
    if job.request.new_items is not None:
        boosts.append(job.request.new_items)
    if not boosts:
        return None
    if not len(rows):
        return np.zeros((0, len(boosts)))
    shares: Floats = boost_shares(boosts, job.data.filters.sources(rows[None]))[0]
    return shares
