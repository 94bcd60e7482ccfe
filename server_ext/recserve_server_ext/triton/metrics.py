"""Gauges that a thread sets once a second, for what changes with every request. Only in a Python model.

Telling Triton a value is a message to the server's process, too dear for every interaction and every answer.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import triton_python_backend_utils as pb

from recserve_server_ext.batching.revision_wait import WaitCounts
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.common.errors import StoreError
from recserve_server_ext.interactions.impression_log import LogCounts

if TYPE_CHECKING:  # no model shall load what only another one needs
    from recserve_server_ext.catalogue.live import LiveCatalogue
    from recserve_server_ext.interactions.impression_log import ImpressionLog
    from recserve_server_ext.services.interactions import InteractionService

_EVERY_S: Final = 1.0
#: How long the end of the process waits for a sample under way: it may wait for a database server.
_END_S: Final = 1.0
_log = logging.getLogger(__name__)


class Gauge(NamedTuple):
    """What is looked at.

    Attributes:
        name: Of the gauge.
        text: What it says.
        read: Its value now; called by the thread. A StoreError, or what is not finite, leaves the gauge as it was.
    """

    name: str
    text: str
    read: Callable[[], float]


class SampledMetrics:
    """Sets gauges, one after the other, once a second."""

    def __init__(self, gauges: Sequence[Gauge], *, every_s: float = _EVERY_S) -> None:
        """Set them for the first time, and start the thread.

        Args:
            gauges: In the order they are looked at.
            every_s: Between two looks.
        """
        self._gauges = gauges
        self._every_s = every_s
        # The families must live as long as their metrics.
        self._families = [
            pb.MetricFamily(name=gauge.name, description=gauge.text, kind=pb.MetricFamily.GAUGE) for gauge in gauges
        ]
        self._metrics: list[Any] = [family.Metric(labels={}) for family in self._families]
        self._faults: set[str] = set()
        self._end = threading.Event()
        self.sample()
        self._thread = threading.Thread(target=self._run, name="sample metrics", daemon=True)
        self._thread.start()

    def sample(self) -> None:
        """Look at each and set its gauge."""
        for gauge, metric in zip(self._gauges, self._metrics, strict=True):
            try:
                value = float(gauge.read())
            except StoreError:
                continue  # whoever needs the store tells of it
            except Exception:
                if gauge.name not in self._faults:  # once, not every second
                    _log.exception("the metric %s cannot be read", gauge.name)
                self._faults.add(gauge.name)
                continue
            # A value that Triton refuses would end the whole server.
            if math.isfinite(value):
                metric.set(value)

    def close(self) -> None:
        """End the thread, after the sample under way."""
        self._end.set()
        self._thread.join(_END_S)

    def _run(self) -> None:
        while not self._end.wait(self._every_s):
            self.sample()


def recommend_metrics(
    live: LiveCatalogue, log: ImpressionLog, *, clock: Callable[[], float] = time.time
) -> SampledMetrics:
    """Those of the model `recommend`.

    Args:
        live: The catalogue that is served.
        log: The log of answers.
        clock: Seconds since 1970.
    """
    read_at = 0.0

    def lag() -> float:
        nonlocal read_at
        found = live.lag()
        read_at = clock()
        return found

    return SampledMetrics(
        [
            Gauge("recserve_answers_waiting", "Answers that wait to be logged", lambda: log.waiting),
            Gauge(
                "recserve_milvus_waiting_deletes", "Rows that wait to be deleted from Milvus", lambda: live.forgetting
            ),
            Gauge("recserve_catalogue_revision_lag", "Changes of the catalogue store that are not served yet", lag),
            Gauge(
                "recserve_catalogue_store_read_timestamp_seconds",
                "Moment the catalogue store was last read for that; 0 = it never was",
                lambda: read_at,
            ),
        ]
    )


def interactions_metrics(desk: InteractionService) -> SampledMetrics:
    """Those of the model `interactions`.

    Args:
        desk: What records.
    """
    return SampledMetrics(
        [Gauge("recserve_interactions_waiting", "Interactions that wait for their commit", lambda: desk.waiting)]
    )


_GAUGES = {
    "recserve_catalogue_revision": "Revision of the catalogue that is served",
    "recserve_catalogue_snapshot_revision": "Revision of the snapshot under it",
    "recserve_catalogue_snapshot_created_timestamp_seconds": "Moment that snapshot was made",
    "recserve_catalogue_snapshot_items": "Items of that snapshot",
    "recserve_catalogue_delta_items": "Items that changed since and are searched exactly",
    "recserve_catalogue_unavailable_items": "Rows that are not recommended: removed, replaced or not available",
}


class ViewMetrics:
    """Shows each view in gauges. A value that Triton refuses would end the whole server, so all are plain floats."""

    def __init__(self) -> None:
        # The families must live as long as their metrics.
        self._families = [
            pb.MetricFamily(name=name, description=text, kind=pb.MetricFamily.GAUGE) for name, text in _GAUGES.items()
        ]
        self._gauges: dict[str, Any] = {
            name: family.Metric(labels={}) for name, family in zip(_GAUGES, self._families, strict=True)
        }

    def show(self, view: View) -> None:
        """Set every gauge."""
        manifest = view.snapshot.manifest
        values = (
            view.revision,
            manifest.revision,
            datetime.fromisoformat(manifest.created).timestamp(),
            manifest.items,
            0 if view.delta is None else view.delta.count,
            view.unavailable,
        )
        for gauge, value in zip(self._gauges.values(), values, strict=True):
            gauge.set(float(value))


class LogMetrics:
    """Shows what became of the answers to log, in counters. Triton ends the server where one would decrease."""

    def __init__(self) -> None:
        counter = pb.MetricFamily.COUNTER
        self._families = [
            pb.MetricFamily(name="recserve_answers_logged_total", description="Answers logged", kind=counter),
            pb.MetricFamily(name="recserve_answers_lost_total", description="Answers not logged", kind=counter),
        ]
        logged, lost = self._families
        self._counters: tuple[Any, ...] = (
            logged.Metric(labels={}),
            lost.Metric(labels={"reason": "full"}),
            lost.Metric(labels={"reason": "failed"}),
        )
        self._shown = LogCounts()

    def show(self, counts: LogCounts) -> None:
        """Add what is new."""
        for counter, now, before in zip(self._counters, counts, self._shown, strict=True):
            if now > before:
                counter.increment(float(now - before))
        self._shown = counts


class WaitMetrics:
    """Shows the requests that ask for a revision that is not there: how many wait, and what became of the others."""

    def __init__(self) -> None:
        counter = pb.MetricFamily.COUNTER
        self._families = [
            pb.MetricFamily(
                name="recserve_revision_waiting_requests",
                description="Requests that wait for their min_revision",
                kind=pb.MetricFamily.GAUGE,
            ),
            pb.MetricFamily(
                name="recserve_revision_waited_total", description="Requests that began to wait", kind=counter
            ),
            pb.MetricFamily(
                name="recserve_revision_refused_total", description="Requests whose revision did not come", kind=counter
            ),
        ]
        waiting, waited, refused = self._families
        self._waiting = waiting.Metric(labels={})
        reasons = ("expired", "cancelled", "full")
        self._counters = (waited.Metric(labels={}), *(refused.Metric(labels={"reason": name}) for name in reasons))
        self._shown = WaitCounts()

    def show(self, counts: WaitCounts) -> None:
        """Set the gauge, and add what is new to the counters."""
        self._waiting.set(float(counts.waiting))
        for counter, now, before in zip(self._counters, counts[1:], self._shown[1:], strict=True):
            if now > before:
                counter.increment(float(now - before))
        self._shown = counts


class EncoderMetrics:
    """Shows how many requests of a model wait for the encoder, in a gauge."""

    def __init__(self, model: str) -> None:
        self._family = pb.MetricFamily(
            name="recserve_encoder_waiting_requests",
            description="Requests that wait for the encoder",
            kind=pb.MetricFamily.GAUGE,
        )
        self._waiting = self._family.Metric(labels={"model": model})

    def show(self, waiting: int) -> None:
        """Set the gauge."""
        self._waiting.set(float(waiting))
