"""Traces of recommendations: who is traced, what the spans say, and that they reach a collector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from recserve_client import calls, text
from recserve_client.calls import Call
from recserve_client.contract import RequestError, Slate
from recserve_client.contract.recommend import RecommendRequest
from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.config.server import Limits, TraceSettings
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.services import traces as traces_module
from recserve_server_ext.services.traces import Traces, check_traces
from support.collector import trace_collector
from support.service import Service
from support.small_snapshot import small_snapshot

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
ENDPOINT = "http://127.0.0.1:1/v1/traces"


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return small_snapshot(tmp_path_factory.mktemp("small"))


def message_of(call: Call[Slate]) -> RecommendRequest:
    """The request that a call sends."""
    return msgspec.json.decode(call.request.raw_input_contents[0][4:], type=RecommendRequest)


@pytest.fixture(autouse=True)
def told_however_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages are told however little they took: how long that is depends on the machine."""
    monkeypatch.setattr(traces_module, "_LEAST_NS", 1)


def spans_of(snapshot: Snapshot, settings: TraceSettings, **request: Any) -> list[ReadableSpan]:
    """The spans of one answered request."""
    exporter = InMemorySpanExporter()
    traces = Traces(settings, lambda: exporter)
    Service(snapshot, Limits(), traces=traces).ask(**{"history": [{"text": "a"}], **request})
    traces.close()
    return list(exporter.get_finished_spans())


def test_a_sampled_request_continues_its_trace_through_the_stages(snapshot: Snapshot) -> None:
    *stages, root = spans_of(snapshot, TraceSettings(ENDPOINT), traceparent=SAMPLED, k=4)
    assert root.name == "recommend"
    assert root.parent is not None
    assert (f"{root.parent.trace_id:032x}", f"{root.parent.span_id:016x}") == (TRACE, SPAN)
    names = [stage.name for stage in stages]
    assert [name for name in names if name != "queue"] == [
        "requests", "profile", "encode", "candidates", "rules", "explain",
    ]  # fmt: skip
    for stage in stages:
        assert stage.parent is not None
        assert (stage.parent.span_id, stage.context.trace_id) == (root.context.span_id, root.context.trace_id)
    assert len({stage.context.span_id for stage in [*stages, root]}) == len(stages) + 1
    # One after the other, within the request.
    times = [time for stage in stages for time in (stage.start_time, stage.end_time)]
    assert times == sorted(times, key=lambda time: time or 0)
    assert (times[0], times[-1]) == (root.start_time, root.end_time)
    told = dict(root.attributes or {})
    assert (told["recserve.k"], told["recserve.items"], told["recserve.cold"]) == (4, 4, False)
    assert told["recserve.strategy"] == "text"


def test_scores_and_rules_have_spans_of_their_own(snapshot: Snapshot) -> None:
    *stages, _ = spans_of(snapshot, TraceSettings(ENDPOINT, 1.0), history=[{"item": "i1"}], slate={"diversify": 0.5})
    assert [stage.name for stage in stages] == ["requests", "profile", "candidates", "score", "rules", "explain"]


def test_a_stage_that_took_next_to_nothing_is_left_out(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces_module, "_LEAST_NS", 10**12)
    (root,) = spans_of(snapshot, TraceSettings(ENDPOINT, 1.0))
    assert root.name == "recommend"


def test_the_caller_decides_otherwise_the_share_does(snapshot: Snapshot) -> None:
    assert not spans_of(snapshot, TraceSettings(ENDPOINT, 1.0), traceparent=NOT_SAMPLED)
    assert not spans_of(snapshot, TraceSettings(ENDPOINT))
    *_, root = spans_of(snapshot, TraceSettings(ENDPOINT, 1.0))
    assert root.parent is None
    assert not spans_of(snapshot, TraceSettings(""), traceparent=SAMPLED)


def test_a_wrong_traceparent_is_refused(snapshot: Snapshot) -> None:
    for wrong in ("x", SAMPLED.upper(), SAMPLED + "0", f"01-{TRACE}-{SPAN}-01"):
        with pytest.raises(RequestError, match="traceparent"):
            Service(snapshot, Limits()).ask(history=[{"text": "a"}], traceparent=wrong)


def test_pages_belong_to_spans_of_their_own(snapshot: Snapshot) -> None:
    service = Service(snapshot, Limits())
    request: dict[str, Any] = {"history": [{"text": "a"}], "k": 4}
    first = service.ask(**request, page={"size": 2}, traceparent=SAMPLED)
    second = service.ask(**request, page={"size": 2, "cursor": first.cursor}, traceparent=NOT_SAMPLED)
    assert len(second.items) == 2


def test_the_client_sends_the_span_under_way() -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    with tracer.start_as_current_span("page") as span:
        traced = message_of(calls.recommend([text("a")]))
        embedded = calls.embed(["a"]).request.id
        own = message_of(calls.request(RecommendRequest([text("a")], traceparent=SAMPLED)))
    context = span.get_span_context()
    assert traced.traceparent == f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
    assert embedded == f"{context.trace_id:032x}"
    assert own.traceparent == SAMPLED
    untraced = calls.recommend([text("a")])
    assert (message_of(untraced).traceparent, untraced.request.id) == ("", "")


def test_spans_reach_a_collector(snapshot: Snapshot) -> None:
    with trace_collector() as (endpoint, got):
        traces = Traces(TraceSettings(endpoint))
        Service(snapshot, Limits(), traces=traces).ask(history=[{"text": "secret"}], traceparent=SAMPLED)
        traces.close()
    sent = ExportTraceServiceRequest.FromString(got[0])
    (resource,) = sent.resource_spans
    names = [span.name for scope in resource.scope_spans for span in scope.spans]
    assert "recommend" in names
    assert b"secret" not in got[0]


def test_traces_without_their_library_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check_traces(TraceSettings())
    check_traces(TraceSettings(ENDPOINT))
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.exporter.otlp.proto.http", None)
    with pytest.raises(ConfigError, match=r"pip install 'recserve\[traces\]'"):
        check_traces(TraceSettings(ENDPOINT))
