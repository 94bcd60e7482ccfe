"""Keeps a server serving: starts it, asks it real questions every two seconds, brings back what died, ends it well."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from recserve_server_ext.encoder_manifest import choose_encoder
from recserve_server_ext.encoder_manifest import read_manifest as read_encoder_manifest
from recserve_server_ext.errors import LaunchError, SnapshotError
from recserve_server_ext.events import EventLog
from recserve_server_ext.model_config import Ensemble, all_models
from recserve_server_ext.probes import Admin, Probes, ProbeSubject
from recserve_server_ext.repository import assemble
from recserve_server_ext.settings import ModelSettings, ServeSettings
from recserve_server_ext.snapshot import current, first_id
from recserve_server_ext.snapshot_manifest import read_manifest as read_snapshot_manifest
from recserve_server_ext.triton_binary import TritonBinary
from recserve_server_ext.triton_process import Endpoint, TritonProcess, claim_port
from recserve_server_ext.workspace import Workspace

_EVERY_S = 2.0
_PROBE_S = 2.0
_START_S = 120.0
_RELOAD_S = 8.0
#: A model whose process lives but that answers nothing for so long is not busy but stuck.
_STUCK_S = 20.0
_LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True)
class Plan:
    """Everything decided before a server starts.

    Attributes:
        binary: The tritonserver.
        folder: Where it runs.
        endpoint: Where it listens.
        subject: What the probes ask about.
        python_models: Names of the models that have a process.
    """

    binary: TritonBinary
    folder: Path
    endpoint: Endpoint
    subject: ProbeSubject
    python_models: frozenset[str]


def prepare(workspace: Workspace, settings: ServeSettings, binary: TritonBinary) -> Plan:
    """Check encoder and snapshot, claim the ports, and write the folder to run from.

    Raises:
        ServerError: Encoder or snapshot is missing, damaged or does not fit the other; a port is taken.
    """
    encoder = choose_encoder(workspace, settings.precision)
    manifest = read_encoder_manifest(encoder)
    published = current(workspace.snapshots)
    snapshot = read_snapshot_manifest(published, verify=False)
    if snapshot.encoder != manifest.runtime_fingerprint:
        raise SnapshotError(
            f"{published} was made by encoder {snapshot.encoder}, but {encoder} is {manifest.runtime_fingerprint}; "
            "rebuild it with: recserve index build"
        )
    endpoint = Endpoint(
        settings.host,
        claim_port(settings.host, settings.grpc_port, "grpc"),
        claim_port(settings.host, settings.metrics_port, "metrics"),
    )
    handed = ModelSettings(encoder=str(encoder.resolve()), snapshots=str(workspace.snapshots.resolve()), serve=settings)
    models = all_models(handed, dim=manifest.dim, max_tokens=manifest.max_tokens)
    folder = (workspace.run / str(endpoint.grpc_port)).resolve()
    assemble(folder, models, binary)
    return Plan(
        binary=binary,
        folder=folder,
        endpoint=endpoint,
        subject=ProbeSubject(first_id(published), manifest.dim, manifest.max_tokens),
        python_models=frozenset(model.name for model in models if not isinstance(model, Ensemble)),
    )


@dataclass
class _Health:
    """When each model last answered."""

    answered: dict[str, float] = field(default_factory=dict)

    def stuck(self, now: float) -> list[str]:
        return [model for model, at in self.answered.items() if now - at > _STUCK_S]


class Supervisor:
    """Runs one server until it is told to stop. Start and watch from the same thread: the server dies with it."""

    def __init__(self, plan: Plan, log: EventLog) -> None:
        self._plan = plan
        self._log = log
        self._stop = threading.Event()
        self._health = _Health()
        self._process: TritonProcess | None = None
        self._probes = Probes(plan.endpoint.grpc, plan.subject)

    @property
    def pid(self) -> int:
        """Process id of the running server; 0 = none."""
        return self._process.pid if self._process is not None else 0

    def request_stop(self) -> None:
        """Make `watch` return soon; safe in a signal handler."""
        self._stop.set()

    def start(self) -> None:
        """Start the server and wait until every model answers a real inference.

        Raises:
            LaunchError: It ended, or did not answer in time; the message quotes its log.
        """
        self._process = TritonProcess(self._plan.binary, self._plan.folder, self._plan.endpoint)
        self._log("started", pid=self._process.pid)
        deadline = time.monotonic() + _START_S
        faults = {"server": "no answer yet"}
        while faults and not self._stop.is_set():
            if (code := self._process.exit_code()) is not None:
                raise LaunchError(f"tritonserver ended with code {code}:\n{self._process.last_lines()}")
            if time.monotonic() > deadline:
                self._process.kill()
                model, fault = next(iter(faults.items()))
                raise LaunchError(f"{model} did not answer within {_START_S:.0f} s: {fault}; see {self._process.log}")
            faults = self._probes.run(_PROBE_S)
            if faults:
                self._stop.wait(0.1)
        self._health.answered = dict.fromkeys(self._probes.models, time.monotonic())
        self._log("ready", grpc=self._plan.endpoint.grpc, metrics=self._plan.endpoint.metrics)

    def watch(self) -> None:
        """Watch the server until `request_stop`, then drain and end it."""
        while not self._stop.wait(_EVERY_S):
            self._check()
        self.stop()

    def stop(self) -> None:
        """Drain and end the server."""
        self._probes.close()
        if self._process is not None:
            self._log("stopping", pid=self._process.pid)
            self._process.stop()
            self._log("stopped", code=self._process.exit_code() or 0)

    def _check(self) -> None:
        assert self._process is not None
        if (code := self._process.exit_code()) is not None:
            self._log("server_exited", code=code)
            self._process.kill()
            self._restart()
            return
        self._process.bound_log()
        faults = self._probes.run(_PROBE_S)
        now = time.monotonic()
        self._health.answered.update(dict.fromkeys(set(self._probes.models) - set(faults), now))
        if not faults or self._process.exit_code() is not None:
            return
        for model, fault in faults.items():
            self._log("model_unhealthy", model=model, fault=fault)
        dead = sorted(self._plan.python_models - self._process.living_stubs())
        for model in dead:
            self._reload(model)
        stuck = self._health.stuck(now)
        if stuck and not dead:
            self._log("server_stuck", models=",".join(stuck))
            self._process.kill()
            self._restart()

    def _reload(self, model: str) -> None:
        assert self._process is not None
        start = time.monotonic()
        admin = Admin(self._plan.endpoint.grpc, self._process.admin)
        try:
            admin.reload(model, _RELOAD_S)
        except grpc.RpcError as error:
            self._log("reload_failed", model=model, fault=f"{error.code().name}: {error.details()}"[:200])
            self._process.kill()
            self._restart()
            return
        finally:
            admin.close()
        self._log("model_reloaded", model=model, seconds=round(time.monotonic() - start, 2))

    def _restart(self) -> None:
        pause = 0.5
        while not self._stop.is_set():
            try:
                self.start()
            except LaunchError as error:
                self._log("restart_failed", fault=str(error).replace("\n", " | ")[:500], next_s=pause)
                self._stop.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            else:
                self._log("server_restarted", pid=self.pid)
                return
