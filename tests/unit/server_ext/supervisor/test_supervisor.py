"""What the supervisor does about what it sees, on a stand-in for tritonserver; the real one is in tests/integration."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from recserve_client.contract import models as names
from recserve_server_ext.common.errors import InteractionError, LaunchError
from recserve_server_ext.supervisor.event_log import EventLog
from recserve_server_ext.supervisor.plan import Plan
from recserve_server_ext.supervisor.run_folder import take_run_folder
from recserve_server_ext.supervisor.service_manager import ServiceManager
from recserve_server_ext.supervisor.supervisor import Supervisor, Timing
from recserve_server_ext.triton.probes import ProbeSubject
from recserve_server_ext.triton.process import claim_endpoint
from support.fake_triton import fake_triton
from support.versions import loaded_encoder

TIMING = Timing(every_s=0.02, probe_s=5, start_s=60, reload_s=1, stuck_s=0.3, pause_s=0.01, longest_pause_s=0.05)


class Log(io.StringIO):
    """Events that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._written = threading.Condition()

    def write(self, text: str) -> int:
        with self._written:
            self._written.notify_all()
            return super().write(text)

    def named(self, event: str) -> list[dict[str, Any]]:
        entries = [json.loads(line) for line in self.getvalue().splitlines()]
        return [entry for entry in entries if entry["event"] == event]

    def wait_for(self, event: str) -> dict[str, Any]:
        with self._written:
            assert self._written.wait_for(lambda: self.named(event), 60), f"no {event}:\n{self.getvalue()}"
            return self.named(event)[-1]


def _subject() -> ProbeSubject:
    return ProbeSubject("a", loaded_encoder("0123456789abcdef"))


class Watched:
    """A supervisor over the stand-in."""

    def __init__(
        self, folder: Path, manager: ServiceManager | None = None, subject: Callable[[], ProbeSubject] = _subject
    ) -> None:
        self.log = Log()
        plan = Plan(
            binary=fake_triton(folder),
            folder=take_run_folder(folder / "run", "1"),
            endpoint=claim_endpoint("127.0.0.1", 0, 0),
            subject=subject,
            python_models=frozenset(),
            compactor=None,
        )
        self.folder = plan.folder.path
        self.supervisor = Supervisor(plan, EventLog(as_json=True, stream=self.log), TIMING, manager=manager)

    def _run(self) -> None:
        if self.supervisor.start():
            self.supervisor.watch()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Start and watch it from a thread of its own; stopped at the end."""
        with ThreadPoolExecutor(1) as threads:
            done = threads.submit(self._run)
            try:
                self.log.wait_for("ready")
                yield
            finally:
                self.supervisor.request_stop()
            done.result(60)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_a_server_is_started_and_ended(watched: Watched) -> None:
    with watched.watching():
        pid = watched.supervisor.pid
    events = [json.loads(line)["event"] for line in watched.log.getvalue().splitlines()]
    assert events == ["started", "ready", "stopping", "stopped"]
    assert watched.log.named("stopped")[0]["drained"] is True
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_systemd_is_told_that_it_is_ready_alive_and_stopping(tmp_path: Path) -> None:
    told: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(60)
        watched = Watched(tmp_path, ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify")}))
        with watched.watching():
            while told[-2:] != ["WATCHDOG=1", "WATCHDOG=1"] or "READY=1" not in "".join(told):
                told.append(listener.recv(1000).decode())
        while told[-1] != "STOPPING=1":
            told.append(listener.recv(1000).decode())
    (ready,) = [state for state in told if state.startswith("READY=1")]
    assert "STATUS=serving on 127.0.0.1:" in ready


def test_a_dead_server_is_started_again_and_its_log_kept(watched: Watched) -> None:
    with watched.watching():
        pid = watched.supervisor.pid
        (watched.folder / "triton.log").write_text("its last words\n")
        os.kill(pid, signal.SIGKILL)
        restarted = watched.log.wait_for("server_restarted")
    assert restarted["pid"] != pid
    assert watched.log.named("server_exited")[0]["code"] == -signal.SIGKILL
    assert (watched.folder / "triton.log").read_text().startswith("its last words\n")


def test_where_no_other_server_can_take_over_the_certificate_is_kept(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_allowed(pid: int, port: int, *, quiet: bool = False) -> None:
        raise PermissionError(1, f"sockets of process {pid} cannot be borrowed")

    renewed = chain([object()], repeat(None)).__next__
    certificates: Any = SimpleNamespace(renewed=renewed, usable=lambda otherwise: otherwise)
    monkeypatch.setattr("recserve_server_ext.supervisor.supervisor.close_listener", not_allowed)
    plan = watched.supervisor._plan
    monkeypatch.setattr(watched.supervisor, "_plan", replace(plan, certificates=certificates))
    with watched.watching():
        pid = watched.supervisor.pid
        assert "cannot be borrowed" in watched.log.wait_for("certificate_kept")["fault"]
        assert watched.supervisor.pid == pid
        os.kill(pid, signal.SIGKILL)
        watched.log.wait_for("server_restarted")


def test_a_restart_that_fails_is_tried_again(watched: Watched) -> None:
    with watched.watching():
        (watched.folder / "broken").write_text("error: no memory")
        os.kill(watched.supervisor.pid, signal.SIGKILL)
        assert "no memory" in watched.log.wait_for("restart_failed")["fault"]
        (watched.folder / "broken").unlink()
        watched.log.wait_for("server_restarted")


def test_only_what_is_stuck_leads_to_a_restart_not_what_is_busy(watched: Watched) -> None:
    """`recommend` answers others, and `recommend_text` waits for it; `pool` answers nobody."""
    with watched.watching():
        (watched.folder / "busy").write_text(names.RECOMMEND)
        (watched.folder / "late").write_text(f"{names.RECOMMEND} {names.RECOMMEND_TEXT} {names.POOL}")
        stuck = watched.log.wait_for("server_stuck")
        (watched.folder / "late").unlink()
        watched.log.wait_for("server_restarted")
    assert stuck["models"] == names.POOL


def test_a_model_is_reported_once_until_it_is_well_again(watched: Watched) -> None:
    with watched.watching():
        (watched.folder / "busy").write_text(names.RECOMMEND)
        (watched.folder / "late").write_text(names.RECOMMEND)
        watched.log.wait_for("model_unhealthy")
        (watched.folder / "late").unlink()
        watched.log.wait_for("model_healthy")
    assert [entry["model"] for entry in watched.log.named("model_unhealthy")] == [names.RECOMMEND]


def test_a_server_that_starts_under_load_is_ready_once_it_has_answered_callers(watched: Watched) -> None:
    every = [names.ENCODER, names.RECOMMEND, names.EMBED, names.TOKENIZE, names.POOL, names.RECOMMEND_TEXT]
    for file in ("late", "busy"):
        (watched.folder / file).write_text(" ".join(every))
    with watched.watching():
        assert watched.log.named("ready")


def test_the_stores_are_opened_while_the_server_starts(tmp_path: Path) -> None:
    running: list[bool] = []

    def subject() -> ProbeSubject:
        running.append(psutil.pid_exists(own.supervisor.pid))
        return _subject()

    own = Watched(tmp_path, subject=subject)
    with own.watching():
        os.kill(own.supervisor.pid, signal.SIGKILL)
        own.log.wait_for("server_restarted")
    assert running == [True]


def test_stores_that_cannot_be_served_end_the_server_that_starts(tmp_path: Path) -> None:
    def subject() -> ProbeSubject:
        raise InteractionError("no store")

    watched = Watched(tmp_path, subject=subject)
    with pytest.raises(InteractionError, match="no store"):
        watched.supervisor.start()
    with pytest.raises(ProcessLookupError):
        os.kill(watched.supervisor.pid, 0)
    watched.supervisor.stop()
    assert watched.log.named("stopped")


def test_a_server_that_ends_at_once_is_quoted(watched: Watched) -> None:
    (watched.folder / "broken").write_text("error: port taken")
    with pytest.raises(LaunchError, match=re.compile("ended with code 1:\nerror: port taken")):
        watched.supervisor.start()
    watched.supervisor.stop()


def test_a_server_that_aborts_while_it_starts_is_started_once_more(watched: Watched) -> None:
    (watched.folder / "aborts").write_text("1")
    with watched.watching():
        assert watched.log.named("start_aborted")[0]["code"] == -signal.SIGABRT
    assert len(watched.log.named("started")) == 2


def test_a_server_that_aborts_again_is_not_started_again(watched: Watched) -> None:
    (watched.folder / "aborts").write_text("2")
    with pytest.raises(LaunchError, match="ended with code -6"):
        watched.supervisor.start()
    assert len(watched.log.named("started")) == 2
    watched.supervisor.stop()


def test_a_stop_during_the_start_is_not_called_ready(watched: Watched) -> None:
    (watched.folder / "late").write_text(names.POOL)
    watched.supervisor.request_stop()
    assert watched.supervisor.start() is False
    watched.supervisor.stop()
    assert watched.log.named("started")
    assert not watched.log.named("ready")
    assert watched.log.named("stopped")
