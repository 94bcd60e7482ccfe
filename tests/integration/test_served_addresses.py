"""Hosts other than 127.0.0.1, and proxies of the environment: gRPC and metrics of a real Triton."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest

from recserve_client import Client
from support.served import served

pytestmark = pytest.mark.triton


@pytest.mark.parametrize("host", ["::1", "localhost", "0.0.0.0"])
def test_both_fronts_are_reached_whatever_proxies_there_are(
    host: str, tiny_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with served(tiny_home, "--host", host, "--insecure") as server, Client(server.grpc) as client:
        assert client.ready(deadline_s=30)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{server.metrics}/metrics", timeout=10) as page:
            assert b"nv_inference_count" in page.read()
