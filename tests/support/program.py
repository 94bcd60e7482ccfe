"""A command of `recserve` that serves, in a process of its own, ended with a check."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

_START_S = 150


class Program(NamedTuple):
    """A running command.

    Attributes:
        ready: What it wrote when it was ready.
        process: The process.
    """

    ready: dict[str, Any]
    process: subprocess.Popen[bytes]


@contextmanager
def program(words: Sequence[str], *, code: int = 0, stop_s: float = 60) -> Iterator[Program]:
    """Run a command on a free port, and stop it with SIGTERM.

    Args:
        words: The command and its options, without `--port` and `--ready-file`.
        code: Exit code it must have.
        stop_s: Seconds in which it must end.
    """
    with tempfile.TemporaryDirectory() as aside:
        ready, log = Path(aside) / "ready.json", Path(aside) / "log"
        command = [sys.executable, "-m", "recserve_client.cli.main", *words, "--port", "0", "--ready-file", str(ready)]
        with log.open("wb") as stream:
            process = subprocess.Popen(command, stdout=stream, stderr=stream, env={**os.environ, "COLUMNS": "200"})
        try:
            deadline = time.monotonic() + _START_S
            while not ready.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"recserve {words[0]} did not start:\n{log.read_text()}")
                time.sleep(0.02)
            yield Program(json.loads(ready.read_text()), process)
        finally:
            process.send_signal(signal.SIGTERM)
            ended = process.wait(stop_s)
            written = log.read_text()
            assert ended == code, f"exit code {ended}; the log:\n{written}"
            assert "Traceback" not in written, written
