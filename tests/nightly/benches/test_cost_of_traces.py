"""What traces cost: CPU of requests with all of them traced and exported, beside the same without, in turns."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from recserve_client.contract import models
from recserve_server_ext.batching.batcher import Batcher
from recserve_server_ext.config.server import Limits, TraceSettings
from recserve_server_ext.services.traces import Traces
from support.calls import Call
from support.service import Service
from support.small_snapshot import small_snapshot

ITEMS, AT_ONCE, BATCHES, ROUNDS = 2000, 16, 100, 12
#: Share of traced requests.
SHARE = 0.01
#: A collector takes what comes, in a process of its own: its CPU is not ours.
_COLLECTOR = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Collector(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *args):
        pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def collector() -> Iterator[str]:
    with subprocess.Popen([sys.executable, "-c", _COLLECTOR], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1/traces"
        process.kill()


def cpu_us(service: Service, requests: list[bytes]) -> float:
    """CPU microseconds of this process for a request, those of the exporting thread too."""
    model = Batcher(service.recommender, {models.ENCODER: service.encode}, at_once=2)
    start = time.process_time()
    for number in range(BATCHES):
        first = number * AT_ONCE % len(requests)
        model.run([Call(raw) for raw in requests[first : first + AT_ONCE]])
    spent = time.process_time() - start
    model.close()
    return spent / (BATCHES * AT_ONCE) * 1e6


def test_one_request_in_a_hundred_traced_costs_little(collector: str, tmp_path: Path) -> None:
    snapshot, rng = small_snapshot(tmp_path, items=ITEMS), random.Random(1)
    # The request of the serving benchmarks: 20 known items, ten wanted, with their titles.
    histories = [[{"item": f"i{rng.randrange(ITEMS)}"} for _ in range(20)] for _ in range(1024)]
    requests = [json.dumps({"history": history, "fields": ["title"]}).encode() for history in histories]
    traces = Traces(TraceSettings(collector, 1.0))
    services = {"without": Service(snapshot, Limits()), "traced": Service(snapshot, Limits(), traces=traces)}
    for service in services.values():
        cpu_us(service, requests)
    rounds = []
    for number in range(ROUNDS):
        names = sorted(services, reverse=bool(number % 2))
        rounds.append({name: cpu_us(services[name], requests) for name in names})
    traces.close()
    without = median(one["without"] for one in rounds)
    more = median(one["traced"] - one["without"] for one in rounds)
    cost = SHARE * more / without
    print(f"{without:.1f} us a request, {more:.1f} us more where it is traced: {cost:.2%} where {SHARE:.0%} are")
    # The figure is in docs/results/serving.md. Here it may be three times that: a test does not measure a machine.
    assert 0 < cost <= 0.05
