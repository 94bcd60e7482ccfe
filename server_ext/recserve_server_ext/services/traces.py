"""OpenTelemetry traces of recommendations: a span for a request, and one for each stage, exported by OTLP."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from recserve_client.contract import Slate
from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.config.server import TraceSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from recserve_server_ext.recommend.job import Job

#: A stage that took less is left out: a span costs more.
_LEAST_NS: Final = 10_000
#: Flag of a sampled span, in the last byte of a `traceparent`.
_SAMPLED: Final = 1
_TIMEOUT_S: Final = 5


def check_traces(settings: TraceSettings) -> None:
    """Raise ConfigError where traces are asked for and OpenTelemetry is not installed."""
    if not settings.endpoint:
        return
    try:
        import opentelemetry.exporter.otlp.proto.http
        import opentelemetry.sdk.trace  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(f"[traces] needs the module {error.name!r}: pip install 'recserve[traces]'") from None


class Traces:
    """Writes the traces of answers that the caller sampled, and of a share of the others."""

    def __init__(self, settings: TraceSettings, exporter: Callable[[], SpanExporter] | None = None) -> None:
        """
        Args:
            settings: Without an endpoint nothing is traced, and nothing is loaded.
            exporter: Makes what takes the spans; OTLP over HTTP to the endpoint by default.
        """
        self._share = settings.share if settings.endpoint else 0.0
        self._provider: Any = None
        if not settings.endpoint:
            return
        # Here, since few servers are traced.
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=Resource({SERVICE_NAME: "recserve"}), shutdown_on_exit=False
        )
        # Its queue is bounded: spans beyond 2,048 that wait are dropped.
        self._spans = BatchSpanProcessor((exporter or _otlp(settings.endpoint))())
        self._provider.add_span_processor(self._spans)
        self._ids = self._provider.id_generator
        self._tracer = self._provider.get_tracer("recserve")
        self._context = TraceContextTextMapPropagator()

    def add(self, job: Job, slate: Slate) -> None:
        """Write the trace of an answer that ends now, if it is sampled."""
        if self._provider is None or not self._is_sampled(job.request.traceparent):
            return
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind

        stages = _stages(job, slate)
        at_ns = time.time_ns() - sum(stages.values())
        parent = self._context.extract({"traceparent": job.request.traceparent})
        root = self._tracer.start_span("recommend", parent, SpanKind.SERVER, _attributes(job, slate), start_time=at_ns)
        own = root.get_span_context()
        for name, took_ns in stages.items():
            start_ns, at_ns = at_ns, at_ns + took_ns
            if took_ns >= _LEAST_NS:
                # A span that has ended already costs a third of one that begins.
                context = SpanContext(own.trace_id, self._ids.generate_span_id(), False, own.trace_flags)
                self._spans.on_end(
                    ReadableSpan(
                        name, context, own, self._provider.resource, instrumentation_scope=root.instrumentation_scope,
                        start_time=start_ns, end_time=at_ns,
                    )
                )  # fmt: skip
        root.end(at_ns)

    def close(self) -> None:
        """Export what waits, within its deadline."""
        if self._provider is not None:
            self._provider.shutdown()

    def _is_sampled(self, traceparent: str) -> bool:
        if traceparent:
            return bool(int(traceparent[-2:], 16) & _SAMPLED)
        return self._share > 0 and random.random() < self._share


def _stages(job: Job, slate: Slate) -> dict[str, int]:
    """Nanoseconds of each stage of an answer, in their order; see `recserve_server_ext.recommend.pipeline`."""
    return {
        "requests": job.resolve_ns - job.profile_ns,
        "profile": job.profile_ns,
        "queue": job.waited_ns,
        "encode": job.encode_ns,
        **job.took_ns,
        "explain": 1000 * slate.timings.explain_us,
    }


def _attributes(job: Job, slate: Slate) -> dict[str, Any]:
    """What a span tells of a request; never who asked."""
    return {
        "recserve.recommendation_id": slate.recommendation_id,
        "recserve.strategy": slate.strategy,
        "recserve.engine": slate.timings.engine,
        "recserve.revision": slate.revision,
        "recserve.k": job.request.k,
        "recserve.items": len(slate.items),
        "recserve.cold": job.is_cold,
        "recserve.by_user_id": job.pseudonym is not None,
    }


def _otlp(endpoint: str) -> Callable[[], SpanExporter]:
    def exporter() -> SpanExporter:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter(endpoint, timeout=_TIMEOUT_S)

    return exporter
