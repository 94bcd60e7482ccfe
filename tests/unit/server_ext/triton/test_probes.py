"""What the metrics of a server tell the supervisor."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

from recserve_client.contract import models as names
from recserve_server_ext.triton.probes import Probes, ProbeSubject
from recserve_server_ext.triton.process import Endpoint

PAGE = b"""# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="recommend",version="1"} 12
nv_inference_request_success{model="pool_01234567",version="1"} 3
# TYPE nv_inference_request_failure counter
nv_inference_request_failure{model="embed",reason="OTHER",version="1"} 5
"""


class Server(HTTPServer):
    page = PAGE


class Page(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.page)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def probes(port: int) -> Probes:
    manifest = SimpleNamespace(dim=2, max_tokens=4)
    encoder = SimpleNamespace(fingerprint="0123456789abcdef", manifest=manifest)
    return Probes(Endpoint("127.0.0.1", 1, port), ProbeSubject("a", encoder))  # type: ignore[arg-type]


def test_it_counts_what_was_answered_well_by_model(server: Server) -> None:
    asked = probes(server.server_port)
    assert asked.finished(5) == {names.RECOMMEND: 12, names.POOL: 3}
    asked.close()


@pytest.mark.parametrize("page", [b"", b"no metrics {", b"\xff", b'nv_inference_request_success{model="x"} many\n'])
def test_another_page_says_nothing(server: Server, page: bytes) -> None:
    server.page = page
    asked = probes(server.server_port)
    assert asked.finished(5) == {}
    asked.close()


def test_a_server_that_is_away_says_nothing() -> None:
    asked = probes(1)
    assert asked.finished(5) == {}
    asked.close()
