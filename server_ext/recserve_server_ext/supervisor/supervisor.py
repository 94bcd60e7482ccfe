"""The supervisor: starts a server, probes its models every two seconds, restarts what died, and ends it."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import grpc

from recserve_server_ext.access.key_file import read_keys
from recserve_server_ext.catalogue.store import CatalogueStore, opener
from recserve_server_ext.common.errors import ConfigError, LaunchError
from recserve_server_ext.common.workspace import Workspace, store_place
from recserve_server_ext.config.server import ModelSettings, ServeSettings, rules_of
from recserve_server_ext.history.weights import weigh
from recserve_server_ext.index.space import MILVUS
from recserve_server_ext.interactions.columns import interaction_columns
from recserve_server_ext.interactions.key_file import read_pseudonyms
from recserve_server_ext.interactions.keys import UserKeys
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.recommend.experiments import Experiments
from recserve_server_ext.services.traces import check_traces
from recserve_server_ext.strategies.parts.chosen import chosen_options, with_chosen
from recserve_server_ext.strategies.registry import Registry
from recserve_server_ext.supervisor.compactor import Compactor, compact_command
from recserve_server_ext.supervisor.encoder_switch import EncoderSwitch
from recserve_server_ext.supervisor.event_log import EventLog
from recserve_server_ext.supervisor.health import Health
from recserve_server_ext.supervisor.network_switch import NetworkSwitch
from recserve_server_ext.supervisor.run_folder import RunFolder, take_run_folder
from recserve_server_ext.supervisor.served_pair import first_pair, published_pair
from recserve_server_ext.supervisor.service_manager import ServiceManager
from recserve_server_ext.supervisor.trainer import Trainer, train_command
from recserve_server_ext.triton.binary import TritonBinary
from recserve_server_ext.triton.encoder_target import find_backend
from recserve_server_ext.triton.model_config import all_models
from recserve_server_ext.triton.probes import Admin, Probes, ProbeSubject
from recserve_server_ext.triton.process import Endpoint, TritonProcess, endpoint_of
from recserve_server_ext.triton.repository import assemble
from recserve_server_ext.triton.tls import server_tls


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Deadlines and pauses of the supervisor.

    Attributes:
        every_s: Time between two rounds of probes.
        probe_s: Deadline of a probe.
        start_s: Deadline of a start: until every model has answered.
        reload_s: Deadline of unloading a model, and of loading it.
        stuck_s: A process that lives but answers nothing for so long is stuck, not busy.
        pause_s: Pause before a failed restart is tried again, doubled each time.
        longest_pause_s: Longest pause.
    """

    every_s: float = 2.0
    probe_s: float = 2.0
    start_s: float = 120.0
    reload_s: float = 8.0
    stuck_s: float = 20.0
    pause_s: float = 0.5
    longest_pause_s: float = 30.0


_TIMING = Timing()


@dataclass(frozen=True)
class Plan:
    """Everything decided before a server starts.

    Attributes:
        folder: Folder it runs from, held until the supervisor stops.
        python_models: Names of the models with a process, whichever encoder is served.
        compactor: Makes new snapshots; `None` without a store or without compaction.
        trainer: Trains again now and then; `None` without.
        switch: Changes the encoder with the published snapshot; `None` where the encoder stays.
    """

    binary: TritonBinary
    folder: RunFolder
    endpoint: Endpoint
    subject: ProbeSubject
    python_models: frozenset[str]
    compactor: Compactor | None
    trainer: Trainer | None = None
    switch: EncoderSwitch | None = None


def prepare(workspace: Workspace, settings: ServeSettings, binary: TritonBinary, log: EventLog) -> Plan:
    """Check encoder, snapshot and stores, claim the ports, and write the folder to run from.

    Raises:
        ServerError: Encoder or snapshot is missing, damaged or does not fit the other; a port is taken.
    """
    first = first_pair(workspace, settings)
    backend = find_backend(binary, settings.encoder)
    if first.snapshot.text.engine.name == MILVUS and not settings.milvus.uri:
        raise ConfigError(
            f"snapshot {first.snapshot.id} is searched by Milvus: set uri in the table [milvus] of the settings"
        )
    endpoint = endpoint_of(settings)
    store = settings.store or (str(workspace.store.resolve()) if workspace.store.is_file() else "")
    folder = take_run_folder(workspace.run, str(endpoint.grpc_port))
    own_key = secrets.token_urlsafe(32) if settings.auth.required else ""
    handed = ModelSettings(
        run=str(folder.path),
        snapshots=str(workspace.snapshots.resolve()),
        store=store,
        serve=settings,
        interactions=_interactions(workspace, settings),
        pseudonym_key=str(workspace.pseudonym_key.resolve()),
        erasures=settings.users.erasures or str(workspace.erasures.resolve()),
        evaluation=str(workspace.evaluation.resolve()),
        spaces=str(workspace.spaces.resolve()),
        api_keys=_api_keys(workspace, settings),
        own_key=own_key,
    )
    if store:
        with CatalogueStore(store_place(store)) as opened:
            opened.check_known(first.snapshot.revision)
    models = all_models(handed, first.encoder, first.networks)
    assemble(folder.path, models, binary, backend)
    networks = NetworkSwitch(handed, first.networks, log)
    switch = EncoderSwitch(handed, first.encoder, lambda: published_pair(workspace, settings).encoder, networks, log)
    endpoint = replace(endpoint, tls=server_tls(settings.tls, folder.path), own_key=own_key)
    python_models = frozenset(model.name for model in models if model.has_process)
    return Plan(
        binary=binary,
        folder=folder,
        endpoint=endpoint,
        subject=ProbeSubject(first.item, first.encoder, bool(store), networks.loaded),
        python_models=python_models - switch.models,
        compactor=_compactor(workspace, settings, store, log),
        trainer=_trainer(workspace, settings, handed.interactions, log),
        switch=switch,
    )


def _compactor(workspace: Workspace, settings: ServeSettings, store: str, log: EventLog) -> Compactor | None:
    if not store or not settings.compact_after:
        return None
    command = compact_command(workspace.home.resolve(), store, settings.milvus)
    return Compactor(workspace.snapshots, opener(store), command, settings.compact_after, log)


def _trainer(workspace: Workspace, settings: ServeSettings, interactions: str, log: EventLog) -> Trainer | None:
    if not settings.train_every:
        return None
    command = train_command(workspace.home.resolve(), interactions, settings.users.rules, settings.trainings)
    return Trainer(workspace.spaces, command, settings.train_every, log)


def api_keys_of(workspace: Workspace, settings: ServeSettings) -> Path:
    """The file of the API keys."""
    return Path(settings.auth.file) if settings.auth.file else workspace.api_keys


def _api_keys(workspace: Workspace, settings: ServeSettings) -> str:
    """The file of the API keys; empty where none is asked for. Raises ConfigError where it cannot be used."""
    if not settings.auth.required:
        return ""
    path = api_keys_of(workspace, settings)
    read_keys(path)
    return str(path.absolute())  # a link is followed anew each time


def _interactions(workspace: Workspace, settings: ServeSettings) -> str:
    """Where the interaction store is; a missing store or key is made.

    Raises:
        ServerError: The store or the key cannot be opened or made, they do not belong together, or rules,
            strategies or experiments do not fit.
    """
    users = settings.users
    where = users.store or str(workspace.interactions.resolve())
    keys = UserKeys(lambda: read_pseudonyms(workspace.pseudonym_key))
    with InteractionStore(store_place(where), users.limits, create=True) as store:
        keys.settle(store.database)
    weigh(interaction_columns([]), rules_of(users))
    strategies = Registry(with_chosen(settings.strategies, chosen_options(workspace.evaluation)))
    check_traces(settings.traces)
    Experiments(users.experiments, settings.limits, strategies)
    for name in (settings.strategy, settings.fallback):
        if name not in strategies.names:
            raise ConfigError(f"there is no strategy {name!r}; there are: {', '.join(strategies.names)}")
    return where


class Supervisor:
    """Runs one server until it is told to stop. Start and watch in one thread: the server dies with that thread."""

    def __init__(
        self,
        plan: Plan,
        log: EventLog,
        timing: Timing = _TIMING,
        on_ready: Callable[[int], None] = lambda _: None,
        manager: ServiceManager | None = None,
    ) -> None:
        """
        Args:
            plan: What to serve.
            log: Where events go.
            timing: When to look, and how long to wait.
            on_ready: Called with the process id of the server whenever it has become ready, also after a restart.
            manager: Who is told that the server is ready, watched and stopping; `None` for nobody.
        """
        self._plan = plan
        self._on_ready = on_ready
        self._manager = manager or ServiceManager({})
        self._log = log
        self._timing = timing
        self._stop = threading.Event()
        self._process: TritonProcess | None = None
        self._subject = plan.subject
        self._probes = Probes(plan.endpoint, plan.subject)
        self._health = self._all_well()
        self._unhealthy: set[str] = set()

    @property
    def pid(self) -> int:
        """Process id of the running server; 0 without one."""
        return self._process.pid if self._process is not None else 0

    def request_stop(self) -> None:
        """Make `start` and `watch` return soon; safe in a signal handler."""
        self._stop.set()

    def start(self) -> bool:
        """Start the server and wait until every model answers a real inference.

        A tritonserver that a signal ends is started once more: seldom, version 2.51 aborts in its gRPC poller
        ("epoll_wait error: Bad file descriptor") before it has loaded anything.

        Returns:
            Whether it is ready; false where `request_stop` came first.

        Raises:
            LaunchError: The server ended, or did not answer in time; the message quotes its log.
        """
        self._process = self._launch()
        has_aborted = False
        deadline = time.monotonic() + self._timing.start_s
        while faults := self._silent():
            self._manager.tell(WATCHDOG=1)
            if self._stop.wait(0.1):
                return False
            if (code := self._process.exit_code()) is not None:
                self._process.kill()
                if code >= 0 or has_aborted:
                    raise LaunchError(f"tritonserver ended with code {code}:\n{self._process.last_lines()}")
                self._log("start_aborted", code=code, fault=self._process.last_lines(1)[:200])
                self._process, has_aborted = self._launch(), True
            if time.monotonic() > deadline:
                self._process.kill()
                model, fault = next(iter(faults.items()))
                raise LaunchError(
                    f"{model} did not answer within {self._timing.start_s:.0f} s: {fault}; see {self._process.log}"
                )
        self._health = self._all_well()
        self._unhealthy.clear()
        self._log("ready", grpc=self._plan.endpoint.grpc, metrics=self._plan.endpoint.metrics)
        self._on_ready(self.pid)
        self._manager.tell(READY=1, STATUS=f"serving on {self._plan.endpoint.grpc}")
        return True

    def watch(self) -> None:
        """Watch the server until `request_stop`, then stop it."""
        while not self._stop.wait(self._timing.every_s):
            self._manager.tell(WATCHDOG=1)
            self._check()
            for background in (self._plan.compactor, self._plan.trainer):
                if background is not None:
                    background.check()
            if self._plan.switch is not None:
                self._follow(self._plan.switch)
        self.stop()

    def stop(self) -> None:
        """Let the server finish its requests and end."""
        self._manager.tell(STOPPING=1)
        self._probes.close()
        for background in (self._plan.compactor, self._plan.trainer):
            if background is not None:
                background.stop()
        if self._process is not None:
            self._log("stopping", pid=self._process.pid)
            self._process.stop()
            self._log("stopped", code=self._process.exit_code() or 0)
        if self._plan.switch is not None:
            self._plan.switch.close()
        self._plan.folder.release()

    def _launch(self) -> TritonProcess:
        process = TritonProcess(self._plan.binary, self._plan.folder.path, self._plan.endpoint)
        self._log("started", pid=process.pid)
        return process

    def _follow(self, switch: EncoderSwitch) -> None:
        """Serve the encoder and the networks of the published snapshot, and probe their models."""
        assert self._process is not None
        process = self._process
        switch.check(lambda: Admin(self._plan.endpoint, process.admin))
        subject = replace(self._subject, encoder=switch.served, networks=switch.networks.loaded)
        if subject != self._subject:
            self._subject = subject
            self._probes.close()
            self._probes = Probes(self._plan.endpoint, self._subject)

    def _all_well(self) -> Health:
        return Health(self._probes.models, time.monotonic(), limit_s=self._timing.stuck_s)

    def _silent(self) -> dict[str, str]:
        """Faults of the models that have answered neither a probe nor a caller since the server started."""
        faults = self._probes.run(self._timing.probe_s)
        answered = self._probes.finished(self._timing.probe_s) if faults else {}
        return {model: fault for model, fault in faults.items() if not answered.get(model)}

    def _check(self) -> None:
        assert self._process is not None
        if (code := self._process.exit_code()) is not None:
            self._log("server_exited", code=code)
            self._restart()
            return
        self._process.bound_log()
        faults = self._probes.run(self._timing.probe_s)
        if self._process.exit_code() is not None:
            return
        self._report(faults)
        finished = self._probes.finished(self._timing.probe_s) if faults else {}
        self._health.update(faults, finished, time.monotonic())
        if not faults:
            return
        expected = self._plan.python_models | (self._plan.switch.models if self._plan.switch else frozenset())
        dead = sorted(expected - self._process.living_stubs())
        if dead:
            if not all(self._reload(model) for model in dead):
                self._restart()
        elif stuck := self._health.stuck(time.monotonic()):
            self._log("server_stuck", models=",".join(stuck))
            self._restart()

    def _report(self, faults: dict[str, str]) -> None:
        """Log changes only: a server that is busy for an hour is not worth a line every two seconds."""
        for model in sorted(set(faults) - self._unhealthy):
            self._log("model_unhealthy", model=model, fault=faults[model])
        for model in sorted(self._unhealthy - set(faults)):
            self._log("model_healthy", model=model)
        self._unhealthy = set(faults)

    def _reload(self, model: str) -> bool:
        """Reload a model; whether that worked."""
        assert self._process is not None
        start = time.monotonic()
        try:
            with closing(Admin(self._plan.endpoint, self._process.admin)) as admin:
                admin.reload(model, self._timing.reload_s)
        except grpc.RpcError as error:
            self._log("reload_failed", model=model, fault=f"{error.code().name}: {error.details()}"[:200])
            return False
        self._log("model_reloaded", model=model, seconds=round(time.monotonic() - start, 2))
        return True

    def _restart(self) -> None:
        assert self._process is not None
        self._process.kill()
        if self._plan.switch is not None:
            self._plan.switch.settle()
        pause = self._timing.pause_s
        while not self._stop.is_set():
            try:
                if self.start():
                    self._log("server_restarted", pid=self.pid)
                return
            except LaunchError as error:
                fault = str(error).replace("\n", " | ")[:500]
                self._log("restart_failed", fault=fault, next_s=pause)
                self._manager.tell(WATCHDOG=1, STATUS=f"cannot start again: {fault}")
                self._stop.wait(pause)
                pause = min(2 * pause, self._timing.longest_pause_s)
