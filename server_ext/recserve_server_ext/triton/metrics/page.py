"""The page of metrics of a running server, and what two of them say of the time between."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from recserve_server_ext.common.errors import ServerError

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

#: Triton's counters by model.
ANSWERED: Final = "nv_inference_request_success"
_FAILED: Final = "nv_inference_request_failure"
_BATCHES: Final = "nv_inference_exec_count"
_QUEUE_US: Final = "nv_inference_queue_duration_us"
_WORK_US: Final = "nv_inference_compute_infer_duration_us"
_PENDING: Final = "nv_inference_pending_request_count"
#: Bytes that are read of a page: some 50 times what a server with all models has.
_MOST: Final = 4 << 20


class MetricsError(ServerError):
    """The metrics cannot be read."""


class MetricsPage:
    """Metrics at one moment."""

    def __init__(self, samples: Iterable[Sample], read_s: float) -> None:
        """`read_s`: moment by `time.monotonic`."""
        self.read_s = read_s
        self._samples: dict[str, list[Sample]] = {}
        for sample in samples:
            self._samples.setdefault(_plain(sample.name), []).append(sample)

    def total(self, name: str, **labels: str) -> float:
        """Sum of the samples of a metric that have these labels; 0 without any."""
        found = self._samples.get(_plain(name), ())
        return sum(one.value for one in found if labels.items() <= one.labels.items())

    def grown_since(self, before: MetricsPage, name: str, **labels: str) -> float:
        """Growth of a counter since an earlier page; one of a server that was started meanwhile grew from 0."""
        now, then = self.total(name, **labels), before.total(name, **labels)
        return now - then if now >= then else now

    def values(self, name: str, label: str) -> list[str]:
        """The values that a label of a metric has, in the order of the page."""
        found = self._samples.get(_plain(name), ())
        return list(dict.fromkeys(one.labels[label] for one in found if label in one.labels))

    @property
    def models(self) -> list[str]:
        """Names of the models that have answered or failed a request, sorted."""
        found = [*self._samples.get(ANSWERED, ()), *self._samples.get(_FAILED, ())]
        return sorted({one.labels["model"] for one in found if one.value})


def _plain(name: str) -> str:
    """The name without the ending of counters, which Triton leaves out and the parser adds."""
    return name.removesuffix("_total")


def read_metrics(address: str, timeout_s: float) -> MetricsPage:
    """Read the metrics at host:port.

    Raises:
        MetricsError: Nobody answers there in time, or what answers has no metrics.
    """
    # Here, since few commands need it, and a server starts before the supervisor does.
    from http.client import HTTPException
    from urllib.request import ProxyHandler, build_opener

    from prometheus_client.parser import text_string_to_metric_families

    try:
        # No proxy is asked for what listens on this machine.
        with build_opener(ProxyHandler({})).open(f"http://{address}/metrics", timeout=timeout_s) as page:
            text = page.read(_MOST).decode()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    except (OSError, HTTPException, ValueError) as error:
        raise MetricsError(f"http://{address}/metrics cannot be read: {error}") from None
    return MetricsPage(samples, time.monotonic())


@dataclass(frozen=True)
class ModelLoad:
    """What one model did between two pages.

    Attributes:
        model: Its name in Triton.
        answered_per_s: Requests that it answered well.
        failed_per_s: Requests that Triton failed; an ensemble counts refusals among them.
        batch: Mean number of requests in a batch; 0 without any.
        queue_ms: Mean time of a request in Triton's queue.
        work_ms: Mean time that the model worked on the batch of a request.
        pending: Requests in Triton's queue at the end.
    """

    model: str
    answered_per_s: float
    failed_per_s: float
    batch: float
    queue_ms: float
    work_ms: float
    pending: int


def loads_between(before: MetricsPage, after: MetricsPage) -> list[ModelLoad]:
    """The load of each model; one that was loaded anew meanwhile counts from its start."""
    return [_load(model, before, after) for model in after.models]


def _load(model: str, before: MetricsPage, after: MetricsPage) -> ModelLoad:
    grown = partial(after.grown_since, before, model=model)
    seconds = max(after.read_s - before.read_s, 1e-3)
    answered, batches = grown(ANSWERED), grown(_BATCHES)
    requests = max(answered, 1.0)
    return ModelLoad(
        model,
        answered / seconds,
        grown(_FAILED) / seconds,
        answered / batches if batches else 0.0,
        grown(_QUEUE_US) / requests / 1000,
        grown(_WORK_US) / requests / 1000,
        int(after.total(_PENDING, model=model)),
    )
