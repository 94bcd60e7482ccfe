"""Looks at a server every two seconds: a real inference, timed, and its page of metrics; keeps a day of that."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from recserve_client.client import AsyncClient
from recserve_client.contract import Slate
from recserve_client.errors import RecserveError
from recserve_server_ext.triton.metrics.page import (
    ANSWERED,
    MetricsError,
    MetricsPage,
    ModelLoad,
    loads_between,
    read_metrics,
)

EVERY_S: Final = 2.0
_PROBE_S: Final = 2.0
_METRICS_S: Final = 2.0
_MINUTE_S: Final = 60.0
#: Looks of five minutes, and minutes of a day.
_RECENT: Final = 150
_MINUTES: Final = 24 * 60
#: Pages of metrics that are kept, one a minute.
_PAGES: Final = 6
#: The model that answers every recommendation.
_RECOMMEND: Final = "recommend"


@dataclass(frozen=True)
class Look:
    """What one look found, or what the looks of a minute found together.

    Attributes:
        time_s: Moment, in seconds since 1970.
        is_well: Whether the server made a real recommendation from a text.
        p50_ms: Time of that inference, or the median of the minute's; `None` where none was made.
        p99_ms: Time of that inference, or the 99th percentile of the minute's.
        users_per_s: Recommendations made, probes among them; `None` without metrics.
        shed_per_s: Requests refused for load.
        queue_ms: Mean wait in Triton's queue for `recommend`.
    """

    time_s: float
    is_well: bool
    p50_ms: float | None = None
    p99_ms: float | None = None
    users_per_s: float | None = None
    shed_per_s: float | None = None
    queue_ms: float | None = None


@dataclass
class ModelSeen:
    """What was seen of a model. The supervisor asks each for a real inference every two seconds.

    Attributes:
        answers: Its answers.
        last_s: When there was another one, in seconds since 1970; `None` where there was none since the console began.
    """

    answers: float
    last_s: float | None = None


@dataclass
class Watcher:
    """Looks at a server for as long as `run` runs.

    Attributes:
        client: Client of the server.
        metrics: host:port of its metrics.
        recent: Looks of the last five minutes.
        minutes: Minutes of the last day.
        page: The newest metrics; `None` where they cannot be read.
        pages: The newest metrics of each of the last minutes, the oldest first.
        loads: What each model did between the last two looks.
        seen: What was seen of each model.
        slate: The last recommendation, which tells what is served.
        fault: Why the last inference failed; empty where it did not.
        metrics_fault: Why the metrics cannot be read; empty where they can.
        well_s: When the server last made a recommendation, in seconds since 1970.
    """

    client: AsyncClient
    metrics: str
    recent: deque[Look] = field(default_factory=lambda: deque(maxlen=_RECENT))
    minutes: deque[Look] = field(default_factory=lambda: deque(maxlen=_MINUTES))
    page: MetricsPage | None = None
    pages: deque[MetricsPage] = field(default_factory=lambda: deque(maxlen=_PAGES))
    loads: list[ModelLoad] = field(default_factory=list)
    seen: dict[str, ModelSeen] = field(default_factory=dict)
    slate: Slate | None = None
    fault: str = ""
    metrics_fault: str = ""
    well_s: float | None = None
    _minute: list[Look] = field(default_factory=list)

    async def run(self) -> None:
        """Look every two seconds, until it is cancelled."""
        while True:
            started = time.monotonic()
            self.add(await self._look())
            await asyncio.sleep(max(0.1, EVERY_S - (time.monotonic() - started)))

    @property
    def is_well(self) -> bool | None:
        """Whether the last inference was made; `None` before the first."""
        return self.recent[-1].is_well if self.recent else None

    def add(self, look: Look) -> None:
        """Keep a look, and the minute that ended before it."""
        if self._minute and look.time_s // _MINUTE_S != self._minute[0].time_s // _MINUTE_S:
            self.minutes.append(together(self._minute))
            self._minute = []
        self._minute.append(look)
        self.recent.append(look)

    async def _look(self) -> Look:
        before = self.page
        took_ms, page = await asyncio.gather(self._probe(), asyncio.to_thread(self._read_metrics))
        self.page = page
        if page is not None and (not self.pages or page.read_s - self.pages[-1].read_s >= _MINUTE_S):
            self.pages.append(page)
        now_s = time.time()
        self._see_models(now_s)
        if before is None or page is None:
            self.loads = []
            return Look(now_s, took_ms is not None, took_ms, took_ms)
        self.loads = loads_between(before, page)
        own = next((load for load in self.loads if load.model == _RECOMMEND), None)
        shed = page.total("recserve_requests_shed_total") - before.total("recserve_requests_shed_total")
        seconds = max(page.read_s - before.read_s, 1e-3)
        return Look(
            now_s,
            took_ms is not None,
            took_ms,
            took_ms,
            0.0 if own is None else own.answered_per_s,
            max(shed, 0.0) / seconds,
            0.0 if own is None else own.queue_ms,
        )

    def _see_models(self, now_s: float) -> None:
        """Compare how much each model has answered with what it had before."""
        page = self.page
        if page is None:
            return
        for model in page.models:
            answers = page.total(ANSWERED, model=model)
            seen = self.seen.setdefault(model, ModelSeen(answers))
            if answers != seen.answers:
                seen.answers, seen.last_s = answers, now_s

    async def _probe(self) -> float | None:
        """Milliseconds of a real recommendation from a text; `None` where there was none."""
        started = time.perf_counter()
        try:
            # Through the ensemble, which keeps no texts: the encoder is asked each time.
            self.slate = await self.client.recommend_text(["probe"], k=1, explain=False, deadline_s=_PROBE_S)
        except RecserveError as error:
            self.fault = error.message
            return None
        self.fault, self.well_s = "", time.time()
        return (time.perf_counter() - started) * 1000

    def _read_metrics(self) -> MetricsPage | None:
        try:
            page = read_metrics(self.metrics, _METRICS_S)
        except MetricsError as error:
            self.metrics_fault = str(error)
            return None
        self.metrics_fault = ""
        return page


def together(looks: Collection[Look]) -> Look:
    """One look for several: quantiles of their inferences, means of their rates."""
    times = [look.p50_ms for look in looks if look.p50_ms is not None]

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    return Look(
        next(iter(looks)).time_s,
        all(look.is_well for look in looks),
        float(np.quantile(times, 0.5)) if times else None,
        float(np.quantile(times, 0.99)) if times else None,
        mean([look.users_per_s for look in looks]),
        mean([look.shed_per_s for look in looks]),
        mean([look.queue_ms for look in looks]),
    )
