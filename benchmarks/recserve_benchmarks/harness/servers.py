"""The servers under load: `recserve serve`, and a Triton that only echoes; and what a load costs them."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import psutil
from tritonclient.grpc import InferenceServerClient, InferenceServerException

from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.harness.load import Load, Outcome, load_generator
from recserve_benchmarks.harness.requests import infer_requests, payload
from recserve_benchmarks.harness.worker import Worker
from recserve_client.contract.models import REQUEST, RESPONSE
from recserve_server_ext.common.errors import LaunchError
from recserve_server_ext.common.units import MIB
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.server import MODEL_SETTINGS, ServeSettings
from recserve_server_ext.triton.binary import find_triton
from recserve_server_ext.triton.model_config import config_text, python_model
from recserve_server_ext.triton.process import TritonProcess, claim_endpoint
from recserve_server_ext.triton.repository import MODELS, assemble

#: Name of the echo model.
ECHO: Final = "echo"
#: Callers of a load that is not said to have another number.
CALLERS: Final = 32
_START_S: Final = 120.0
_POLL_S: Final = 0.01


class LoadCost(NamedTuple):
    """A load without failures: CPU time of the serving processes for each request, and mean batch size by model."""

    outcome: Outcome
    cpu_us: float
    batch: dict[str, float]


@dataclass(frozen=True)
class Server:
    """A running tritonserver with a load generator of its own.

    Attributes:
        address: host:port of gRPC.
        pid: Of the tritonserver.
        log: What the program that started it writes.
        start_s: Seconds from starting the program to readiness.
        generator: Sends the load.
    """

    address: str
    pid: int
    log: Path
    start_s: float
    generator: Worker[Load, Outcome]

    def cpu_s(self) -> float:
        """CPU seconds, user and system, of the tritonserver and its Python processes so far."""
        return self._sum(lambda process: sum(process.cpu_times()[:2]))

    def memory_mb(self) -> float:
        """Proportional set size of all processes, MiB: shared pages count once."""
        return self._sum(lambda process: process.memory_full_info().pss) / MIB

    def ask(
        self, model: str, packed: Sequence[bytes], callers: int = CALLERS, *, keep_answers: bool = False
    ) -> Outcome:
        """Send packed requests to a model; wanted answers come back packed.

        Raises:
            BenchmarkError: A request failed, or the load generator ended.
        """
        requests = list(infer_requests(model, packed))
        outcome = self.generator.ask(Load(self.address, requests, callers, keep_answers=keep_answers))
        if outcome.errors:
            raise BenchmarkError(f"requests failed under load: {json.dumps(outcome.errors)}")
        outcome.answers[:] = map(payload, outcome.answers)
        return outcome

    def cost(self, model: str, packed: Sequence[bytes], *others: str, keep_answers: bool = False) -> LoadCost:
        """Send packed requests by 32 callers; batch sizes are those of the model and of these others.

        Wanted answers come back packed.

        Raises:
            BenchmarkError: A request failed, or a process ended.
        """
        before = {name: self._batches(name) for name in (model, *others)}
        cpu_s = self.cpu_s()
        outcome = self.ask(model, packed, keep_answers=keep_answers)
        cpu_s = self.cpu_s() - cpu_s
        batch = {}
        for name, (answered, executions) in before.items():
            answered_now, executions_now = self._batches(name)
            batch[name] = (answered_now - answered) / (executions_now - executions)
        return LoadCost(outcome, cpu_s / outcome.users * 1e6, batch)

    def _sum(self, figure: Callable[[psutil.Process], float]) -> float:
        try:
            server = psutil.Process(self.pid)
            return sum(figure(process) for process in [server, *server.children(recursive=True)])
        except psutil.NoSuchProcess:
            raise BenchmarkError("a serving process ended during the measurement; see the server's log") from None

    def _batches(self, model: str) -> tuple[int, int]:
        """Requests answered and executions so far; the name of `encoder` may end with a fingerprint."""
        with InferenceServerClient(self.address) as client:
            found = client.get_inference_statistics(client_timeout=5).model_stats
        of_encoder = re.compile(rf"{model}_[0-9a-f]{{8}}")
        stats = [one for one in found if of_encoder.fullmatch(one.name)] or [one for one in found if one.name == model]
        return sum(one.inference_count for one in stats), sum(one.execution_count for one in stats)


@contextmanager
def ours(home: Workspace, precision: str, *more: str) -> Iterator[Server]:
    """`recserve serve` over a home, with more options.

    Raises:
        LaunchError: It did not start.
    """
    with tempfile.TemporaryDirectory() as aside, load_generator() as generator:
        ready, log = Path(aside) / "ready.json", Path(aside) / "log"
        command = [sys.executable, "-m", "recserve_client.cli.main", "serve", "--home", str(home.home)]
        command += ["--grpc-port", "0", "--metrics-port", "0", "--precision", precision, "--ready-file", str(ready)]
        start_s = time.monotonic()
        with log.open("wb") as stream:
            process = subprocess.Popen([*command, *more], stdout=stream, stderr=stream)
        try:
            _wait(ready.exists, lambda: process.poll() is not None, log.read_text)
            addresses = json.loads(ready.read_text())
            yield Server(addresses["grpc"], addresses["server_pid"], log, time.monotonic() - start_s, generator)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@contextmanager
def echo(answer_bytes: int) -> Iterator[Server]:
    """A tritonserver with the model `echo` alone, batching as `recommend` does, with answers of this size.

    Raises:
        LaunchError: It did not start.
    """
    with tempfile.TemporaryDirectory() as aside, load_generator() as generator:
        folder, binary = Path(aside), find_triton()
        code = folder / MODELS / ECHO / "1" / "model.py"
        batch, settings = ServeSettings().batch, str(answer_bytes)
        model = python_model(ECHO, (REQUEST,), (RESPONSE,), max_batch=batch, settings=settings)
        assemble(folder, [], binary)
        code.parent.mkdir(parents=True)
        shutil.copy(Path(__file__).with_name("echo_model.py"), code)
        (code.parent / MODEL_SETTINGS).write_text(model.settings)
        (code.parent.parent / "config.pbtxt").write_text(config_text(model))
        endpoint = claim_endpoint("127.0.0.1", 0, 0)
        start_s = time.monotonic()
        process = TritonProcess(binary, folder, endpoint)
        try:
            _wait(lambda: _is_ready(endpoint.grpc), lambda: process.exit_code() is not None, process.last_lines)
            yield Server(endpoint.grpc, process.pid, process.log, time.monotonic() - start_s, generator)
        finally:
            process.stop()


def _wait(is_ready: Callable[[], bool], has_ended: Callable[[], bool], log: Callable[[], str]) -> None:
    deadline = time.monotonic() + _START_S
    while not is_ready():
        if has_ended() or time.monotonic() > deadline:
            raise LaunchError(f"the server did not start: {log()[-500:]}")
        time.sleep(_POLL_S)


def _is_ready(address: str) -> bool:
    with InferenceServerClient(address) as client:
        try:
            return bool(client.is_model_ready(ECHO, client_timeout=1))
        except InferenceServerException:
            return False
