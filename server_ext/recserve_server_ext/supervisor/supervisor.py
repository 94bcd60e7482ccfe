"""The supervisor: starts a server, probes its models every two seconds, restarts what died, and ends it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final

import grpc

from recserve_server_ext.common.errors import LaunchError
from recserve_server_ext.services.refusals import RefusalFollower
from recserve_server_ext.supervisor.encoder_switch import EncoderSwitch
from recserve_server_ext.supervisor.event_log import EventLog
from recserve_server_ext.supervisor.handover import Retiring, close_listener
from recserve_server_ext.supervisor.health import Health
from recserve_server_ext.supervisor.plan import Plan
from recserve_server_ext.supervisor.service_manager import ServiceManager
from recserve_server_ext.triton.probes import Admin, Probes, ProbeSubject
from recserve_server_ext.triton.process import Endpoint, TritonProcess
from recserve_server_ext.triton.tls import ServerTls

#: Refusals that are logged of those between two rounds of probes: the newest.
_REFUSALS: Final = 20
#: Time between two looks at a server that starts.
_LOOK_S: Final = 0.02
#: Such looks until it is asked again.
_LOOKS: Final = 5


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
        self._retiring: Retiring | None = None
        self._subject: ProbeSubject | None = None
        self._probes: Probes | None = None
        self._health = Health((), 0.0, limit_s=timing.stuck_s)
        self._unhealthy: set[str] = set()
        self._refusals = RefusalFollower(plan.folder.path)

    @property
    def _asked(self) -> Probes:
        """The probes, which there are as soon as a server was started."""
        assert self._probes is not None
        return self._probes

    @property
    def pid(self) -> int:
        """Process id of the running server; 0 without one."""
        return self._process.pid if self._process is not None else 0

    def request_stop(self) -> None:
        """Make `start` and `watch` return soon; safe in a signal handler."""
        self._stop.set()

    def start(self) -> bool:
        """Start the server and wait until every model answers a real inference.

        A tritonserver that a signal ends is started once more.

        Returns:
            Whether it is ready; false where `request_stop` came first.

        Raises:
            LaunchError: The server ended, or did not answer in time; the message quotes its log.
            ServerError: The stores cannot be served.
        """
        self._process = self._launch()
        self._settle()
        has_aborted = False
        deadline = time.monotonic() + self._timing.start_s
        while faults := self._silent():
            self._manager.tell(WATCHDOG=1)
            if self._pause():
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
            self._log_refusals()
            for background in (self._plan.compactor, self._plan.trainer):
                if background is not None:
                    background.check()
            if self._retiring is not None:
                self._retire(self._retiring)
                continue  # a change of the models waits for that
            if self._plan.switch is not None:
                self._follow(self._plan.switch)
            certificates = None if self._plan.endpoint.socket else self._plan.certificates
            if certificates is not None and (tls := certificates.renewed()) is not None:
                self._renew(tls)
        self.stop()

    def stop(self) -> None:
        """Let the server finish its requests and end."""
        self._manager.tell(STOPPING=1)
        if self._probes is not None:
            self._probes.close()
        for background in (self._plan.compactor, self._plan.trainer):
            if background is not None:
                background.stop()
        if self._retiring is not None:
            self._retiring.process.stop()
        if self._process is not None:
            self._log("stopping", pid=self._process.pid)
            self._log("stopped", drained=self._process.stop())
        if self._plan.switch is not None:
            self._plan.switch.close()
        self._plan.folder.release()

    def _settle(self) -> None:
        """Decide what the probes ask about while the first server loads its models; see `Plan.subject`."""
        if self._subject is not None:
            return
        try:
            self._probe_about(self._plan.subject())
        except BaseException:
            assert self._process is not None
            self._process.kill()
            raise

    def _launch(self) -> TritonProcess:
        process = TritonProcess(self._plan.binary, self._plan.folder.path, self._plan.endpoint)
        self._log("started", pid=process.pid)
        return process

    def _renew(self, tls: ServerTls) -> None:
        """Serve with a renewed certificate: a second server takes the ports, and the first ends when idle."""
        assert self._process is not None
        before, plan = self._process, self._plan
        endpoint = replace(plan.endpoint, tls=tls)
        try:
            # No second server can listen where the first shows its metrics.
            if not before.held:
                before.held = close_listener(before.pid, endpoint.metrics_port, quiet=True)
            self._take(endpoint)
            if not self.start():
                self._retiring = Retiring(before, endpoint)
                return
            close_listener(before.pid, endpoint.grpc_port)
        except (OSError, LaunchError) as error:
            if self._process is not before:
                self._process.kill()
            self._process = before
            self._take(plan.endpoint)
            self._log("certificate_kept", fault=str(error).replace("\n", " | ")[:500])
            return
        self._retiring = Retiring(before, endpoint)

    def _retire(self, retiring: Retiring) -> None:
        """End a server that another one has taken over from, once nobody is connected to it."""
        if retiring.is_idle:
            retiring.process.stop()
            self._retiring = None
            self._log("certificate_renewed", pid=self.pid)

    def _take(self, endpoint: Endpoint) -> None:
        """Reach the server at another endpoint from now on."""
        self._plan = replace(self._plan, endpoint=endpoint)
        assert self._subject is not None
        self._probe_about(self._subject)

    def _follow(self, switch: EncoderSwitch) -> None:
        """Serve the encoder and the networks of the published snapshot, and probe their models."""
        assert self._process is not None
        process = self._process
        switch.check(lambda: Admin(self._plan.endpoint, process.admin))
        assert self._subject is not None
        subject = replace(self._subject, encoder=switch.served, networks=switch.networks.loaded)
        if subject != self._subject:
            self._probe_about(subject)

    def _probe_about(self, subject: ProbeSubject) -> None:
        """Ask about this from now on, at the endpoint of the plan."""
        if self._probes is not None:
            self._probes.close()
        self._subject, self._probes = subject, Probes(self._plan.endpoint, subject)

    def _all_well(self) -> Health:
        return Health(self._asked.models, time.monotonic(), limit_s=self._timing.stuck_s)

    def _pause(self) -> bool:
        """Wait until a server that did not listen does, or a tenth of a second; whether `request_stop` came."""
        has_listened = self._plan.endpoint.is_listening
        for _ in range(_LOOKS):
            if self._stop.wait(_LOOK_S):
                return True
            if not has_listened and self._plan.endpoint.is_listening:
                break
        return False

    def _silent(self) -> dict[str, str]:
        """Faults of the models that have answered neither a probe nor a caller since the server started."""
        # A channel that was refused would wait longer and longer until it tries again.
        if not self._plan.endpoint.is_listening:
            return {"tritonserver": "it does not listen yet"}
        faults = self._asked.run(self._timing.probe_s)
        answered = self._asked.finished(self._timing.probe_s) if faults else {}
        return {model: fault for model, fault in faults.items() if not answered.get(model)}

    def _check(self) -> None:
        assert self._process is not None
        if (code := self._process.exit_code()) is not None:
            self._log("server_exited", code=code)
            self._restart()
            return
        self._process.bound_log()
        faults = self._asked.run(self._timing.probe_s)
        if self._process.exit_code() is not None:
            return
        self._report(faults)
        finished = self._asked.finished(self._timing.probe_s) if faults else {}
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

    def _log_refusals(self) -> None:
        """Log what was refused since the last look."""
        try:
            new = self._refusals.new(_REFUSALS)
        except (OSError, ValueError) as error:
            self._log("refusals_unread", fault=str(error)[:200])
            return
        for one in reversed(new):
            kind, text = str(one.kind), one.text
            self._log("refused", model=one.model, kind=kind, at=one.time, request_id=one.request_id, text=text)

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
        tls, certificates = self._plan.endpoint.tls, self._plan.certificates
        self._take(replace(self._plan.endpoint, tls=tls if certificates is None else certificates.usable(tls)))
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
