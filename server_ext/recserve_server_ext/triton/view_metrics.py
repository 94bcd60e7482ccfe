"""Prometheus metrics of the catalogue that `recommend` serves, who waits for it, its log. Only in a Python model."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import triton_python_backend_utils as pb

from recserve_server_ext.batching.revision_wait import WaitCounts
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.interactions.answer_log import LogCounts

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
