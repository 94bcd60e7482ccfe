"""Training beside the server: when it starts, what is told, and that it ends with the server."""

from __future__ import annotations

import sys
from io import StringIO
from pathlib import Path

import numpy as np
import psutil

from recserve_server_ext.index.trained import publish_space
from recserve_server_ext.index.trained_versions import last_training, make_current
from recserve_server_ext.supervisor.event_log import EventLog
from recserve_server_ext.supervisor.trainer import Trainer, train_command

EVERY_S = 3600.0


class Clock:
    """The time of day, and the time that passed."""

    now = passed = 0.0

    def __call__(self) -> float:
        return self.now


def trainer(spaces: Path, script: str, clock: Clock) -> tuple[Trainer, StringIO]:
    log = StringIO()
    events = EventLog(as_json=False, stream=log)
    return Trainer(
        spaces, [sys.executable, "-c", script], EVERY_S, events, pause_s=60.0, clock=clock, timer=lambda: clock.passed
    ), log


def version(spaces: Path) -> Path:
    return publish_space(spaces, "als", ["a"], np.ones((1, 2), np.float32))


def finish(of: Trainer) -> None:
    process = of._command._process
    assert process is not None
    process.wait(30)
    of.check()


def test_it_trains_what_was_never_trained_and_then_every_so_often(tmp_path: Path) -> None:
    clock = Clock()
    of, log = trainer(tmp_path, "", clock)
    of.check()
    assert "training_started" in log.getvalue()
    folder = version(tmp_path)
    make_current(folder)
    finish(of)
    assert f"trained als={folder.name}" in log.getvalue()
    last = last_training(tmp_path)
    assert last is not None
    clock.now = last + EVERY_S - 1
    of.check()
    assert log.getvalue().count("training_started") == 1
    clock.now, clock.passed = last + EVERY_S, 60.0
    of.check()
    assert log.getvalue().count("training_started") == 2
    finish(of)


def test_a_failure_is_told_and_not_repeated_at_once(tmp_path: Path) -> None:
    clock = Clock()
    of, log = trainer(tmp_path, "import sys; sys.exit('no room')", clock)
    of.check()
    finish(of)
    of.check()
    assert "training_failed fault=no room next_s=60.0" in log.getvalue()
    assert log.getvalue().count("training_started") == 1
    for clock.now in (1e9, -1e9):  # set forwards and back: neither hastens nor delays
        of.check()
    assert log.getvalue().count("training_started") == 1
    clock.passed += 60.0
    of.check()
    assert log.getvalue().count("training_started") == 2
    finish(of)


def test_it_yields_to_serving_and_ends_with_the_server(tmp_path: Path) -> None:
    of, _ = trainer(tmp_path, "import time; time.sleep(600)", Clock())
    of.check()
    process = of._command._process
    assert process is not None
    assert psutil.Process(process.pid).ionice().ioclass == psutil.IOPRIO_CLASS_IDLE
    of.stop()
    assert process.poll() is not None


def test_the_command_trains_the_served_log(tmp_path: Path) -> None:
    command = train_command(tmp_path, "/log.db", "rules.toml")
    assert command[3:] == ["train", "all", "--home", str(tmp_path), "--store", "/log.db", "--rules", "rules.toml"]
    assert "--rules" not in train_command(tmp_path, "/log.db", "")
    command = train_command(tmp_path, "/log.db", "", {"sequence": {"epochs": 2, "objective": "next"}, "ease": {}})
    assert command[-2:] == ["--set=sequence.epochs=2", '--set=sequence.objective="next"']
