"""`recserve bench http`: users/s and latency over HTTP beside gRPC, in interleaved rounds over one server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil

from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.harness.corpus import prepare
from recserve_benchmarks.harness.load import Load, Outcome
from recserve_benchmarks.harness.report import setup
from recserve_benchmarks.harness.requests import known_requests
from recserve_benchmarks.harness.run import Rounds, Run
from recserve_benchmarks.harness.servers import CALLERS, Server, ours
from recserve_benchmarks.harness.worker import Worker
from recserve_benchmarks.http.load import http_generator
from recserve_client.contract import models
from recserve_export.index.recall import sample_histories
from recserve_server_ext.common.arrays import Rows

_START_S: Final = 30


class Sizes(NamedTuple):
    """How much to measure: users of each round by 32 callers and by one."""

    users: int = 4000
    alone: int = 400


QUICK: Final = Sizes(400, 50)


@dataclass(frozen=True)
class HttpApi:
    """A running `recserve http` with a load generator of its own."""

    address: str
    pid: int
    generator: Worker[Load, Outcome]

    def cpu_s(self) -> float:
        """CPU seconds, user and system, so far."""
        return sum(psutil.Process(self.pid).cpu_times()[:2])

    def ask(self, packed: Sequence[bytes], callers: int) -> Outcome:
        """Send bodies to `/v1/recommend`; raises BenchmarkError where one fails."""
        outcome = self.generator.ask(Load(self.address, packed, callers))
        if outcome.errors:
            raise BenchmarkError(f"requests failed over HTTP: {json.dumps(outcome.errors)}")
        return outcome


def measure(run: Run) -> dict[str, Any]:
    """Measure; the figures by name.

    Raises:
        BenchmarkError: Requests failed, or a process ended.
        ServerError: A server did not start.
    """
    sizes, rounds = QUICK if run.quick else Sizes(), Rounds()
    corpus = prepare(run, run.items)
    with ours(corpus.home, run.manifest.precision) as server, http_api(server) as http:
        for warm in (CALLERS, 1):
            http.ask(_packed(run, corpus.vectors, 200, -warm), warm)
        for number in rounds.each(run):
            _round(rounds, server, http, _packed(run, corpus.vectors, sizes.users, number))
            _alone(rounds, server, http, _packed(run, corpus.vectors, sizes.alone, 1000 + number))
    about = setup(run, items=len(corpus.vectors), callers=CALLERS, engine=corpus.engine, sizes=sizes._asdict())
    return {**rounds.results(), "setup": about}


def parts(results: dict[str, Any]) -> list[str]:
    """Lines for people."""
    lines = [
        f"{name}: {of['users_per_s']:,.0f} users/s, p50 {of['p50_ms']:.2f} ms, p99 {of['p99_ms']:.2f} ms by {CALLERS}; "
        f"alone p50 {of['alone_p50_ms']:.2f} ms; {of['cpu_us']:.0f} us of CPU a request"
        for name, of in results["of"].items()
    ]
    ratio = results["ratio"]
    return [
        *lines,
        f"HTTP has {ratio['users']:.2f} of the users/s of gRPC, {ratio['p99']:.2f} of its p99, "
        f"and adds {ratio['added_p50_ms']:.2f} ms to the p50 of one caller; by CPU, of which its process takes "
        f"{ratio['http_cpu_us']:.0f} us, {ratio['cpu']:.2f}",
    ]


def _round(rounds: Rounds, server: Server, http: HttpApi, packed: Sequence[bytes]) -> None:
    plain = server.cost(models.RECOMMEND, packed)
    serving_s, http_s = server.cpu_s(), http.cpu_s()
    over = http.ask(packed, CALLERS)
    serving_us = (server.cpu_s() - serving_s) / over.users * 1e6
    http_us = (http.cpu_s() - http_s) / over.users * 1e6
    for name, of, cpu_us in (("grpc", plain.outcome, plain.cpu_us), ("http", over, serving_us + http_us)):
        rounds.add(f"of.{name}", users_per_s=of.users_per_s, p50_ms=of.p50_ms, p99_ms=of.p99_ms, cpu_us=cpu_us)
    users, p99 = over.users_per_s / plain.outcome.users_per_s, over.p99_ms / plain.outcome.p99_ms
    rounds.add("ratio", users=users, p99=p99, cpu=plain.cpu_us / (serving_us + http_us), http_cpu_us=http_us)


def _alone(rounds: Rounds, server: Server, http: HttpApi, packed: Sequence[bytes]) -> None:
    plain = server.ask(models.RECOMMEND, packed, 1).p50_ms
    over = http.ask(packed, 1).p50_ms
    rounds.add("of.grpc", alone_p50_ms=plain)
    rounds.add("of.http", alone_p50_ms=over)
    rounds.add("ratio", added_p50_ms=over - plain)


def _packed(run: Run, vectors: Any, count: int, part: int) -> list[bytes]:
    """Requests of users that no other part of the run has."""
    rows: Rows = sample_histories(vectors, count=count, seed=run.seed * 10_000 + 5000 + part)["interests"]
    return known_requests(rows)


@contextmanager
def http_api(server: Server) -> Iterator[HttpApi]:
    """`recserve http` in front of a server; raises BenchmarkError where it does not start."""
    with tempfile.TemporaryDirectory() as aside, http_generator() as generator:
        ready, log = Path(aside) / "ready.json", Path(aside) / "log"
        command = [sys.executable, "-m", "recserve_client.cli.main", "http", "--address", server.address]
        command += ["--port", "0", "--ready-file", str(ready)]
        with log.open("wb") as stream:
            process = subprocess.Popen(command, stdout=stream, stderr=stream)
        try:
            end = time.monotonic() + _START_S
            while not ready.exists():
                if process.poll() is not None or time.monotonic() > end:
                    raise BenchmarkError(f"recserve http did not start: {log.read_text()[-500:]}")
                time.sleep(0.05)
            yield HttpApi(json.loads(ready.read_text())["http"], process.pid, generator)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
