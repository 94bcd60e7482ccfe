"""The trace context: requests carry the OpenTelemetry span of the caller, where the caller traces."""

from __future__ import annotations

import sys

#: Place of the trace id in a `traceparent`.
_TRACE_ID = slice(3, 35)


def trace_id() -> str:
    """The trace of the span under way, if it is sampled: 32 hexadecimal digits; empty without one."""
    return traceparent()[_TRACE_ID]


def traceparent() -> str:
    """The sampled span under way as a W3C `traceparent`; empty without one, and where OpenTelemetry is not in use."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return ""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid or not context.trace_flags.sampled:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
