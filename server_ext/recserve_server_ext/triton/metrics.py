"""Gauges that a thread sets once a second, for what changes with every request. Only in a Python model.

Telling Triton a value is a message to the server's process, too dear for every interaction and every answer.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import triton_python_backend_utils as pb

from recserve_server_ext.common.errors import StoreError

if TYPE_CHECKING:  # no model shall load what only another one needs
    from recserve_server_ext.catalogue.live import LiveCatalogue
    from recserve_server_ext.interactions.answer_log import AnswerLog
    from recserve_server_ext.services.interactions import InteractionDesk

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


def recommend_metrics(live: LiveCatalogue, log: AnswerLog, *, clock: Callable[[], float] = time.time) -> SampledMetrics:
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


def interactions_metrics(desk: InteractionDesk) -> SampledMetrics:
    """Those of the model `interactions`.

    Args:
        desk: What records.
    """
    return SampledMetrics(
        [Gauge("recserve_interactions_waiting", "Interactions that wait for their commit", lambda: desk.waiting)]
    )
