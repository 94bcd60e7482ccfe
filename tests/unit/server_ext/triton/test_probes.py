"""What the metrics of a server tell the supervisor."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from recserve_client.contract import models as names
from recserve_server_ext.triton.probes import Probes, ProbeSubject
from recserve_server_ext.triton.process import Endpoint
from support.metrics_page import serving

PAGE = b"""# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="recommend",version="1"} 12
nv_inference_request_success{model="pool_01234567",version="1"} 3
# TYPE nv_inference_request_failure counter
nv_inference_request_failure{model="embed",reason="OTHER",version="1"} 5
"""


def finished(port: int) -> dict[str, int]:
    manifest = SimpleNamespace(dim=2, max_tokens=4)
    encoder = SimpleNamespace(fingerprint="0123456789abcdef", manifest=manifest)
    asked = Probes(Endpoint("127.0.0.1", 1, port), ProbeSubject("a", encoder))  # type: ignore[arg-type]
    try:
        return asked.finished(5)
    finally:
        asked.close()


def test_it_counts_what_was_answered_well_by_model() -> None:
    with serving(PAGE) as server:
        assert finished(server.server_port) == {names.RECOMMEND: 12, names.POOL: 3, names.EMBED: 0}


@pytest.mark.parametrize("page", [b"", b"no metrics {", b"\xff", b'nv_inference_request_success{model="x"} many\n'])
def test_another_page_says_nothing(page: bytes) -> None:
    with serving(page) as server:
        assert finished(server.server_port) == {}


def test_a_server_that_is_away_says_nothing() -> None:
    assert finished(1) == {}
