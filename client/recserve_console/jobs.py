"""Long work of the console: `recserve` commands over the home, a process each, with output and a way to end it."""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from recserve_console.audit import Audit

#: Jobs that are remembered, and lines of output of each.
_KEPT: Final = 20
_LINES: Final = 400
_READ_BYTES: Final = 4096


@dataclass(eq=False)
class Job:
    """A command that runs or ran.

    Attributes:
        words: The command, without the home.
        started_s: Start, in seconds since 1970.
        state: What has become of it.
        ended_s: End, in seconds since 1970; `None` while it runs.
        lines: The end of its output.
        by: Id of the API key of who started it; empty where none was asked for.
    """

    words: tuple[str, ...]
    started_s: float
    state: Literal["running", "done", "failed", "ended"] = "running"
    ended_s: float | None = None
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LINES))
    process: asyncio.subprocess.Process | None = None
    by: str = ""

    @property
    def name(self) -> str:
        """The command as one types it."""
        return f"recserve {shlex.join(self.words)}"

    def cancel(self) -> None:
        """End the process, which leaves what was served as it was."""
        if self.process is not None and self.process.returncode is None:
            self.state = "ended"
            self.process.terminate()


class BusyError(Exception):
    """Another job runs."""


class Jobs:
    """Runs one job at a time, whether a page is open or not."""

    def __init__(self, home: Path, audit: Audit) -> None:
        self._home, self._audit = home, audit
        self._task: asyncio.Task[None] | None = None
        #: The newest first.
        self.jobs: deque[Job] = deque(maxlen=_KEPT)

    def start(self, words: Sequence[str], by: str = "") -> Job:
        """Start a command over the home.

        Args:
            words: The command, without the home.
            by: Id of the API key of who starts it; empty where none was asked for.

        Raises:
            BusyError: A job runs already.
            OSError: The audit log cannot be written.
        """
        if self._task is not None and not self._task.done():
            raise BusyError(f"{self.jobs[0].name} runs; wait for it, or end it")
        job = Job(tuple(words), time.time(), by=by)
        self._audit.write("job.start", job.name, by=by)
        self.jobs.appendleft(job)
        self._task = asyncio.get_running_loop().create_task(self._run(job))
        return job

    def stop(self) -> None:
        """End what runs."""
        for job in self.jobs:
            job.cancel()

    async def _run(self, job: Job) -> None:
        program = [sys.executable, "-m", "recserve_client.cli.main", *job.words, "--home", str(self._home)]
        pipe, merged = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
        job.process = await asyncio.create_subprocess_exec(*program, stdout=pipe, stderr=merged)
        assert job.process.stdout is not None
        rest = ""
        # By blocks: progress bars end their lines with carriage returns, and may be longer than a line's limit.
        while block := await job.process.stdout.read(_READ_BYTES):
            *lines, rest = (rest + block.decode(errors="replace")).replace("\r", "\n").split("\n")
            job.lines.extend(line for line in lines if line.strip())
            rest = rest[-_READ_BYTES:]
        if rest.strip():
            job.lines.append(rest)
        code = await job.process.wait()
        job.ended_s = time.time()
        if job.state == "running":
            job.state = "failed" if code else "done"
        self._audit.write("job.end", job.name, job.state, by=job.by)
