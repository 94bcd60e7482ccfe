"""Counts of the answers, for metrics: how long each stage took by strategy, who was cold, and how slates spread."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Final, NamedTuple

import msgspec
import numpy as np

from recserve_client.contract import RecommendTimings, Slate
from recserve_client.contract.recommend import STAGES
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.common.arrays import NO_ROWS, Floats, Ints, Mask, Rows
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.recommend.job import Job

#: Microseconds of each stage, of timings.
stages_us: Final = attrgetter(*(f"{stage}_us" for stage in STAGES))
#: Upper bounds of the buckets of a histogram, in seconds; one more holds what took longer.
BOUNDS_S: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_BOUNDS_US: Final = np.array(BOUNDS_S) * MICROSECONDS
#: The bounds as Prometheus writes them, and that of what took longer.
_SHOWN: Final = (*map(str, BOUNDS_S), "+Inf")
#: [stages] place of the first bucket of each.
_FIRST: Final = np.arange(len(STAGES)) * (len(BOUNDS_S) + 1)
#: Answers that wait to be counted together.
_MOST_WAITING: Final = 1024
#: Recommended items that are kept to tell how slates spread.
_KEPT: Final = 65_536


class _Answer(msgspec.Struct, frozen=True, eq=False):
    """What is counted of an answer."""

    strategy: str
    timings: RecommendTimings
    is_cold: bool
    rows: Rows
    view: View


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

    def add(self, answers: Sequence[_Answer]) -> None:
        """Count answers."""
        took = np.array([stages_us(answer.timings) for answer in answers], float)
        places = np.searchsorted(_BOUNDS_US, took) + _FIRST
        self.buckets += np.bincount(places.ravel(), minlength=self.buckets.size).reshape(self.buckets.shape)
        self.sums_us += took.sum(axis=0)
        self.slates += len(answers)
        self.cold += sum(answer.is_cold for answer in answers)

    def histograms(self) -> Iterator[tuple[str, list[tuple[str, int]], float]]:
        """For each stage: its name, the answers that took at most each bound, and the seconds spent."""
        for stage, reached, sum_us in zip(STAGES, self.buckets.cumsum(axis=1).tolist(), self.sums_us, strict=True):
            yield stage, list(zip(_SHOWN, reached, strict=True)), float(sum_us) / MICROSECONDS


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
    """Counts answers by strategy, and keeps the newest 65,536 recommended items.

    Answers are noted as they go, and counted many at a time: by `count`, or once 1,024 wait. Several threads may add
    and count.

    Attributes:
        by_strategy: Counts of each strategy.
        texts: Distinct texts of batches by whether the cache had their vectors.
    """

    def __init__(self) -> None:
        self.by_strategy: dict[str, StrategyCounts] = defaultdict(StrategyCounts)
        self.texts = {True: 0, False: 0}
        self._waiting: deque[_Answer] = deque()
        self._lock = threading.Lock()
        self._rows: Ints = np.zeros(_KEPT, np.int64)
        self._added = 0
        self._view: View | None = None

    def add(self, job: Job, slate: Slate) -> None:
        """Note an answer."""
        rows = NO_ROWS if job.ranked is None else job.ranked.rows
        self._waiting.append(_Answer(slate.strategy, slate.timings, job.is_cold, rows, job.data.view))
        if len(self._waiting) >= _MOST_WAITING:
            self.count()

    def add_texts(self, is_cached: Mask) -> None:
        """Count looked-up texts; [texts] whether the cache had them. One thread adds."""
        found = int(is_cached.sum())
        self.texts[True] += found
        self.texts[False] += len(is_cached) - found

    def count(self) -> None:
        """Count what waits."""
        with self._lock:
            waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
            groups: dict[str, list[_Answer]] = defaultdict(list)
            for answer in waiting:
                groups[answer.strategy].append(answer)
            for strategy, answers in groups.items():
                self.by_strategy[strategy].add(answers)
            if waiting:
                self._keep(waiting)

    def _keep(self, answers: Sequence[_Answer]) -> None:
        view = answers[-1].view
        if self._view is None or self._view.snapshot is not view.snapshot:
            self._added = 0  # rows of another snapshot are other items
        self._view = view
        rows = np.concatenate([answer.rows for answer in answers if answer.view.snapshot is view.snapshot])[-_KEPT:]
        self._rows[(self._added + np.arange(len(rows))) % _KEPT] = rows
        self._added += len(rows)

    def spread(self) -> Spread:
        """How the newest counted recommendations spread over the catalogue."""
        with self._lock:
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
