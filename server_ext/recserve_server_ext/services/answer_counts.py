"""Counts of the answers, for metrics: how long each stage took by strategy, who was cold, and how slates spread."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from recserve_client.contract import Slate
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.common.arrays import Floats, Ints
from recserve_server_ext.recommend.job import Job

#: Stages of an answer, as its timings name them.
STAGES: Final = ("queue", "resolve", "encode", "search", "explain")
#: Upper bounds of the buckets of a histogram, in seconds; one more holds what took longer.
BOUNDS_S: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_BOUNDS_US: Final = np.array(BOUNDS_S) * 1e6
_PLACES: Final = np.arange(len(STAGES))
#: Recommended items that are kept to tell how slates spread.
_KEPT: Final = 65_536


class StrategyCounts:
    """Answers of one strategy.

    Attributes:
        slates: Number of answers.
        cold: Those among them for want of a usable profile.
        buckets: [stages, buckets] answers by how long each stage took.
        sums_us: [stages] microseconds spent.
    """

    def __init__(self) -> None:
        self.slates = self.cold = 0
        self.buckets: Ints = np.zeros((len(STAGES), len(BOUNDS_S) + 1), np.int64)
        self.sums_us: Floats = np.zeros(len(STAGES))

    def add(self, jobs: Sequence[Job], slates: Sequence[Slate]) -> None:
        """Count answers."""
        timings = [slate.timings for slate in slates]
        took = np.array([(t.queue_us, t.resolve_us, t.encode_us, t.search_us, t.explain_us) for t in timings], float)
        np.add.at(self.buckets, (_PLACES, np.searchsorted(_BOUNDS_US, took)), 1)
        self.sums_us += took.sum(axis=0)
        self.slates += len(jobs)
        self.cold += sum(job.is_cold for job in jobs)


class Spread(NamedTuple):
    """How the newest recommendations spread over the catalogue; NaN before the first.

    Attributes:
        coverage: Share of the available items that were recommended at least once.
        entropy_bits: -sum_i p_i log2 p_i, p_i the share of item i in the recommendations.
        top: Share of the hundredth of the available items that was recommended most.
    """

    coverage: float = float("nan")
    entropy_bits: float = float("nan")
    top: float = float("nan")


class AnswerCounts:
    """Counts answers by strategy, and keeps the newest 65,536 recommended items. One thread adds, others may read."""

    def __init__(self) -> None:
        self.by_strategy: dict[str, StrategyCounts] = defaultdict(StrategyCounts)
        self._rows: Ints = np.zeros(_KEPT, np.int64)
        self._added = 0
        self._view: View | None = None

    def add(self, jobs: Sequence[Job], slates: Sequence[Slate]) -> None:
        """Count the answers of a batch."""
        groups: dict[str, list[int]] = defaultdict(list)
        for number, slate in enumerate(slates):
            groups[slate.strategy].append(number)
        for strategy, numbers in groups.items():
            of = self.by_strategy[strategy]
            of.add([jobs[number] for number in numbers], [slates[number] for number in numbers])
        self._keep([job for job in jobs if job.ranked is not None])

    def _keep(self, jobs: Sequence[Job]) -> None:
        view = jobs[-1].data.view if jobs else None
        if view is None:
            return
        if self._view is None or self._view.snapshot is not view.snapshot:
            self._added = 0  # rows of another snapshot are other items
        self._view = view
        rows = np.concatenate([job.ranked.rows for job in jobs if job.ranked is not None and job.data.view is view])
        rows = rows[-_KEPT:]
        self._rows[(self._added + np.arange(len(rows))) % _KEPT] = rows
        self._added += len(rows)

    def spread(self) -> Spread:
        """How the newest recommendations spread over the catalogue."""
        view, rows = self._view, self._rows[: min(self._added, _KEPT)].copy()
        available = 0 if view is None else int(view.available.sum())
        if not len(rows) or not available:
            return Spread()
        counts = np.sort(np.unique(rows, return_counts=True)[1])[::-1]
        shares = counts / counts.sum()
        hundredth = -(-available // 100)
        return Spread(
            min(len(counts) / available, 1.0), float(-(shares * np.log2(shares)).sum()), float(shares[:hundredth].sum())
        )
