"""The two servers under load: ours, by `recserve serve`, and a Triton that only echoes; and what they cost."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
from tritonclient.grpc import service_pb2, service_pb2_grpc

from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.harness.load import Outcome, generate, good
from recserve_client.contract.models import REQUEST, RESPONSE
from recserve_server_ext.common.errors import LaunchError
from recserve_server_ext.config.server import ServeSettings
from recserve_server_ext.triton.binary import find_triton
from recserve_server_ext.triton.model_config import config_text, python_model
from recserve_server_ext.triton.process import TritonProcess, claim_endpoint
from recserve_server_ext.triton.repository import MODELS, assemble

_START_S = 120.0
#: Name of the echo model.
ECHO = "echo"


@dataclass(frozen=True)
class LoadCost:
    """What a load came to.

    Attributes:
        outcome: Of the requests; none failed.
        cpu_us: Microseconds of CPU of the serving processes for each request.
        batch: Mean number of requests that each model answered at a time.
    """

    outcome: Outcome
    cpu_us: float
    batch: dict[str, float]


@dataclass(frozen=True)
class Server:
    """A running tritonserver.

    Attributes:
        address: host:port of gRPC.
        pid: Of the tritonserver.
        log: What the program that started it writes.
    """

    address: str
    pid: int
    log: Path

    def cpu_s(self) -> float:
        """CPU seconds, user and system, of the tritonserver and its Python processes so far."""
        return self._sum(lambda process: sum(process.cpu_times()[:2]))

    def memory_mb(self) -> float:
        """Proportional set size of all processes, MiB: what they share counts once."""
        return self._sum(lambda process: process.memory_full_info().pss) / 2**20

    def _sum(self, figure: Callable[[psutil.Process], float]) -> float:
        try:
            server = psutil.Process(self.pid)
            return sum(figure(process) for process in [server, *server.children(recursive=True)])
        except psutil.NoSuchProcess:
            raise BenchmarkError("a serving process ended during the measurement; see the server's log") from None

    def batches(self, model: str) -> tuple[int, int]:
        """Requests answered and executions so far; of `encoder`, by the model that the other models ask."""
        with grpc.insecure_channel(self.address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            found = stub.ModelStatistics(service_pb2.ModelStatisticsRequest(), timeout=5).model_stats
        of_encoder = re.compile(rf"{model}_[0-9a-f]{{8}}")
        stats = [one for one in found if of_encoder.fullmatch(one.name)] or [one for one in found if one.name == model]
        return sum(one.inference_count for one in stats), sum(one.execution_count for one in stats)

    def under_load(self, requests: Iterable[bytes], callers: int, *models: str) -> LoadCost:
        """Put it under load, see `recserve_benchmarks.harness.load.generate`, and look at these models.

        Raises:
            BenchmarkError: A request failed, or a process ended.
        """
        before = {model: self.batches(model) for model in models}
        cpu_s = self.cpu_s()
        outcome = good(generate(self.address, requests, callers))
        cpu_s = self.cpu_s() - cpu_s
        batch = {}
        for model, (answered, executions) in before.items():
            answered_now, executions_now = self.batches(model)
            batch[model] = (answered_now - answered) / (executions_now - executions)
        return LoadCost(outcome, cpu_s / outcome.users * 1e6, batch)


@contextmanager
def ours(home: Path, precision: str, *more: str) -> Iterator[Server]:
    """`recserve serve` over a home, with more options."""
    with tempfile.TemporaryDirectory() as aside:
        ready = Path(aside) / "ready.json"
        program = [sys.executable, "-m", "recserve_client.cli.main", "serve", "--home", str(home)]
        options = [
            "--grpc-port",
            "0",
            "--metrics-port",
            "0",
            "--precision",
            precision,
            "--ready-file",
            str(ready),
            *more,
        ]
        log = Path(aside) / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen([*program, *options], stdout=stream, stderr=stream)
        try:
            deadline = time.monotonic() + _START_S
            while not ready.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise LaunchError(f"the server did not start: {log.read_text()[-500:]}")
                time.sleep(0.05)
            addresses = json.loads(ready.read_text())
            yield Server(addresses["grpc"], addresses["server_pid"], log)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@contextmanager
def echo(answer_bytes: int, settings: ServeSettings) -> Iterator[Server]:
    """A tritonserver with the model `echo` alone, batching as `recommend` does."""
    with tempfile.TemporaryDirectory() as aside:
        folder, binary = Path(aside), find_triton()
        model = python_model(ECHO, (REQUEST,), (RESPONSE,), max_batch=settings.batch, settings=str(answer_bytes))
        assemble(folder, [], binary)
        target = folder / MODELS / model.name / "1"
        target.mkdir(parents=True)
        shutil.copy(Path(__file__).with_name("echo_model.py"), target / "model.py")
        (target.parent / "config.pbtxt").write_text(config_text(model))
        endpoint = claim_endpoint("127.0.0.1", 0, 0)
        process = TritonProcess(binary, folder, endpoint)
        try:
            _wait_ready(endpoint.grpc, process)
            yield Server(endpoint.grpc, process.pid, process.log)
        finally:
            process.stop()


def _wait_ready(address: str, process: TritonProcess) -> None:
    deadline = time.monotonic() + _START_S
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        while True:
            try:
                if stub.ModelReady(service_pb2.ModelReadyRequest(name=ECHO), timeout=1).ready:
                    return
            except grpc.RpcError:
                pass
            if process.exit_code() is not None or time.monotonic() > deadline:
                raise LaunchError(f"the echo server did not start:\n{process.last_lines()}")
            time.sleep(0.05)
