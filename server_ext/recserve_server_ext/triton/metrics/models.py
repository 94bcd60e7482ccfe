"""Prometheus metrics of the models, through Triton. Importable only inside a Python model.

A value that Triton refuses ends the whole server, also where the call is caught: every value is a finite float, and no
counter decreases.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import triton_python_backend_utils as pb

from recserve_client.contract.models import ENCODER
from recserve_server_ext.common.errors import StoreError
from recserve_server_ext.common.units import MICROSECONDS

if TYPE_CHECKING:  # no model shall load what only another one needs
    from recserve_server_ext.batching.admission import Admission
    from recserve_server_ext.batching.revision_wait import WaitCounts
    from recserve_server_ext.catalogue.live import LiveCatalogue
    from recserve_server_ext.interactions.impressions.log import ImpressionLog, LogCounts
    from recserve_server_ext.interactions.store import InteractionStore
    from recserve_server_ext.services.answer_counts import AnswerCounts
    from recserve_server_ext.services.interactions import InteractionService

_EVERY_S: Final = 1.0
#: Time between two looks at what became of the answers of the last hour.
_OUTCOMES_EVERY_S: Final = 60.0
_HOUR_S: Final = 3600.0
#: How long the end of the process waits for a sample under way, which may wait for a database server.
_END_S: Final = 1.0
_LIVE: Final[weakref.WeakSet[Metric]] = weakref.WeakSet()
_log = logging.getLogger(__name__)


class Metric:
    """A metric of Triton; it keeps its family, which must live as long."""

    def __init__(self, family: Any, **labels: str) -> None:
        self._family = family
        self._metric = family.Metric(labels=labels)
        self._total = 0.0
        self._value = math.nan
        _LIVE.add(self)

    @property
    def is_released(self) -> bool:
        """Whether Triton's metric was let go of."""
        return self._metric is None

    def release(self) -> None:
        """Let go of Triton's metric; what is set afterwards is dropped."""
        self._metric = self._family = None

    def set(self, value: float) -> None:
        """Set a gauge to a new value; one that is not finite leaves it. Each is a message to the server's process."""
        metric = self._metric
        if metric is not None and math.isfinite(value) and value != self._value:
            metric.set(float(value))
            self._value = value

    def count(self, total: float) -> None:
        """Add what is new of a running total."""
        metric = self._metric
        if metric is not None and total > self._total:
            metric.increment(float(total - self._total))
        self._total = total


def release_metrics() -> None:
    """Let go of all metrics of this process; call at the end of `finalize`.

    A metric that outlives the model tells Triton's side of its end when nobody listens there: the process would end by
    a segmentation fault, and Triton would wait for it.
    """
    for metric in list(_LIVE):
        metric.release()


def gauge(name: str, text: str, **labels: str) -> Metric:
    """A gauge with these labels, and a description."""
    return Metric(pb.MetricFamily(name=name, description=text, kind=pb.MetricFamily.GAUGE), **labels)


def _counters(name: str, text: str, *reasons: str) -> list[Metric]:
    """A counter for each reason, or one without a label."""
    family = pb.MetricFamily(name=name, description=text, kind=pb.MetricFamily.COUNTER)
    return [Metric(family, reason=reason) for reason in reasons] or [Metric(family)]


class Gauge(NamedTuple):
    """A gauge that is sampled; a StoreError of `read` leaves it as it was."""

    name: str
    text: str
    read: Callable[[], float]


class SampledMetrics:
    """Sets gauges once a second, for what changes with every request.

    Telling Triton a value is a message to the server's process, too dear for every interaction and every answer.
    """

    def __init__(self, gauges: Sequence[Gauge], *, every_s: float = _EVERY_S) -> None:
        """Set the gauges for the first time, and start the thread."""
        self._gauges = [(one, gauge(one.name, one.text)) for one in gauges]
        self._every_s = every_s
        self._faults: set[str] = set()
        self._end = threading.Event()
        self.sample()
        self._thread = threading.Thread(target=self._run, name="sample metrics", daemon=True)
        self._thread.start()

    def sample(self) -> None:
        """Read each value and set its gauge."""
        for one, metric in self._gauges:
            try:
                metric.set(one.read())
            except StoreError:
                continue  # whoever needs the store reports it
            except Exception:
                if one.name not in self._faults:  # once, not every second
                    _log.exception("the metric %s cannot be read", one.name)
                self._faults.add(one.name)

    def close(self) -> None:
        """End the thread, after the sample under way."""
        self._end.set()
        self._thread.join(_END_S)

    def _run(self) -> None:
        while not self._end.wait(self._every_s):
            self.sample()


def recommend_metrics(
    live: LiveCatalogue,
    log: ImpressionLog,
    named: Callable[[], tuple[int, int]],
    counted_at: Callable[[], float],
    *,
    clock: Callable[[], float] = time.time,
) -> SampledMetrics:
    """The sampled metrics of the model `recommend`; see `RecommendService.named_interactions` and
    `LogCounter.counted_at`."""
    read_at = 0.0

    def lag() -> float:
        nonlocal read_at
        found = live.lag()
        read_at = clock()
        return found

    gauges = [
        ("recserve_answers_waiting", "Answers that wait to be logged", lambda: log.waiting),
        ("recserve_milvus_waiting_deletes", "Rows that wait to be deleted from Milvus", lambda: live.forgetting),
        (
            "recserve_catalogue_snapshot_verified",
            "Whether all files of the served snapshot match their checksums; 0 until all are read",
            lambda: float(live.is_verified),
        ),
        ("recserve_catalogue_revision_lag", "Changes of the catalogue store that are not served yet", lag),
        (
            "recserve_catalogue_store_read_timestamp_seconds",
            "Moment the catalogue store was last read for the revision lag; 0 = never",
            lambda: read_at,
        ),
        ("recserve_log_interactions", "Counted interactions that name an item", lambda: named()[0]),
        ("recserve_log_known_interactions", "Of these, with an item of the served catalogue", lambda: named()[1]),
        ("recserve_log_counted_timestamp_seconds", "Moment the log was last counted; 0 = never", counted_at),
    ]
    return SampledMetrics([Gauge(*one) for one in gauges])


class AnswerMetrics(SampledMetrics):
    """What the answers of the model `recommend` were: by strategy and stage, and over the catalogue.

    A histogram is told as counters, `_bucket`, `_sum` and `_count`: `observe` is a message for each answer.
    """

    def __init__(self, counts: AnswerCounts, *, every_s: float = 10 * _EVERY_S) -> None:
        """Set the metrics for the first time, and start the thread."""
        self._counts = counts
        self._families = {
            of: pb.MetricFamily(name=of, description=text, kind=pb.MetricFamily.COUNTER)
            for of, text in (
                ("recserve_slates_total", "Slates by the strategy that made them"),
                ("recserve_slate_stage_seconds_bucket", "Slates by how long a stage took"),
                ("recserve_slate_stage_seconds_sum", "Seconds that a stage took"),
                ("recserve_slate_stage_seconds_count", "Slates whose stages were timed"),
                ("recserve_text_cache_texts_total", "Texts by whether the cache had their vectors"),
            )
        }
        self._shown: dict[tuple[str, ...], Metric] = {}
        self._spread = [
            gauge("recserve_slate_coverage_ratio", "Share of the available items that is recommended"),
            gauge("recserve_slate_entropy_bits", "Entropy of the recommended items"),
            gauge("recserve_slate_top_percent_ratio", "Share of the most recommended hundredth of the items"),
        ]
        super().__init__([], every_s=every_s)

    def close(self) -> None:
        """See `SampledMetrics.close`."""
        super().close()
        self._families.clear()

    def sample(self) -> None:
        """Read the counts, and set the metrics."""
        self._counts.count()
        for strategy, of in list(self._counts.by_strategy.items()):
            cold, slates = of.cold, of.slates
            self._count("recserve_slates_total", slates - cold, strategy=strategy, profile="personal")
            self._count("recserve_slates_total", cold, strategy=strategy, profile="cold")
            for stage, buckets, seconds in of.histograms():
                labels = {"strategy": strategy, "stage": stage}
                for bound, reached in buckets:
                    self._count("recserve_slate_stage_seconds_bucket", reached, **labels, le=bound)
                self._count("recserve_slate_stage_seconds_sum", seconds, **labels)
                self._count("recserve_slate_stage_seconds_count", buckets[-1][1], **labels)
        for found, texts in self._counts.texts.items():
            self._count("recserve_text_cache_texts_total", texts, found="yes" if found else "no")
        for shown, value in zip(self._spread, self._counts.spread(), strict=True):
            shown.set(value)

    def _count(self, name: str, total: float, **labels: str) -> None:
        key = name, *labels.values()
        if key not in self._shown:
            self._shown[key] = Metric(self._families[name], **labels)
        self._shown[key].count(total)


class OutcomeMetrics(SampledMetrics):
    """What became of the answers of the last hour, by strategy."""

    def __init__(
        self,
        store: Callable[[], InteractionStore],
        *,
        every_s: float = _OUTCOMES_EVERY_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Set the metrics for the first time, and start the thread."""
        self._open = store
        self._clock = clock
        self._families = [
            pb.MetricFamily(name=name, description=text, kind=pb.MetricFamily.GAUGE)
            for name, text in (
                ("recserve_recent_impressions", "Recommended items of the answers of the last hour"),
                ("recserve_recent_clicks", "Those among them that were clicked"),
            )
        ]
        self._shown: dict[str, list[Metric]] = {}
        super().__init__([], every_s=every_s)

    def close(self) -> None:
        """See `SampledMetrics.close`."""
        super().close()
        self._families.clear()

    def sample(self) -> None:
        """Read the log, and set the metrics; they stay as they are where it cannot be read."""
        # Here, since no other model counts.
        from recserve_server_ext.counts.clicks import clicks_by_strategy

        try:
            found = clicks_by_strategy(self._open(), round((self._clock() - _HOUR_S) * MICROSECONDS))
        except StoreError:
            return
        for strategy in found:
            if strategy not in self._shown:
                self._shown[strategy] = [Metric(family, strategy=strategy) for family in self._families]
        for strategy, metrics in self._shown.items():
            for metric, value in zip(metrics, found.get(strategy, (0, 0)), strict=True):
                metric.set(value)


def interactions_metrics(service: InteractionService) -> SampledMetrics:
    """The sampled metrics of the model `interactions`."""
    text = "Interactions that wait for their commit"
    return SampledMetrics([Gauge("recserve_interactions_waiting", text, lambda: service.waiting)])


class Queues(Protocol):
    """What waits for each model; see `recserve_server_ext.batching.batcher.Batcher`."""

    @property
    def admissions(self) -> Mapping[str, Admission]:
        """What may wait for each model."""
        ...

    def waiting(self, model: str) -> int:
        """Number of requests that wait for a model."""
        ...


class AdmissionMetrics(SampledMetrics):
    """What a model admits and sheds, by queue: that of its own work, and one for each model that it asks."""

    def __init__(self, model: str, batcher: Queues, *, every_s: float = _EVERY_S) -> None:
        """Set the metrics of a model for the first time, and start the thread."""
        admitted, limit = (
            pb.MetricFamily(name=name, description=text, kind=pb.MetricFamily.GAUGE)
            for name, text in (
                ("recserve_admitted_requests", "Requests that wait in a queue or are worked on"),
                ("recserve_admission_limit_requests", "Most of these at the moment"),
            )
        )
        text = "Requests that were refused for want of time, or dropped since their deadlines passed"
        shed = pb.MetricFamily(name="recserve_requests_shed_total", description=text, kind=pb.MetricFamily.COUNTER)
        self._shown = [
            (
                admission,
                [Metric(family, model=model, queue=queue) for family in (admitted, limit)],
                [Metric(shed, model=model, queue=queue, reason=reason) for reason in ("full", "late", "expired")],
            )
            for queue, admission in batcher.admissions.items()
        ]
        self._batcher = batcher
        self._waiting = (
            gauge("recserve_encoder_waiting_requests", "Requests that wait for the encoder", model=model)
            if ENCODER in batcher.admissions
            else None
        )
        super().__init__([], every_s=every_s)

    def sample(self) -> None:
        """Read each admission, and set its metrics."""
        if self._waiting is not None:
            self._waiting.set(self._batcher.waiting(ENCODER))
        for admission, gauges, counters in self._shown:
            waiting, limit, *shed = admission.counts
            for shown, value in zip(gauges, (waiting, limit), strict=True):
                shown.set(value)
            for counter, total in zip(counters, shed, strict=True):
                counter.count(int(total))


class LogMetrics:
    """Counters of the impression log."""

    def __init__(self) -> None:
        self._counters = [
            *_counters("recserve_answers_logged_total", "Answers logged"),
            *_counters("recserve_answers_lost_total", "Answers not logged", "full", "failed"),
        ]

    def show(self, counts: LogCounts) -> None:
        """Add what is new of these totals."""
        for counter, total in zip(self._counters, counts, strict=True):
            counter.count(total)


class WaitMetrics:
    """Metrics of the requests that ask for a revision that has not come yet."""

    def __init__(self) -> None:
        self._waiting = gauge("recserve_revision_waiting_requests", "Requests that wait for their min_revision")
        refused = ("expired", "cancelled", "full")
        self._counters = [
            *_counters("recserve_revision_waited_total", "Requests that began to wait"),
            *_counters("recserve_revision_refused_total", "Requests whose revision did not come", *refused),
        ]

    def show(self, counts: WaitCounts) -> None:
        """Set the gauge, and add what is new of the totals."""
        self._waiting.set(counts.waiting)
        for counter, total in zip(self._counters, counts[1:], strict=True):
            counter.count(total)
