"""A process that works for a measurement: reads jobs, one JSON object a line, and answers with one each.

What is measured side by side runs in processes of its own, so that no thread pool of one is part of another.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Generic, Self, TypeVar

import msgspec

from recserve_benchmarks.errors import BenchmarkError

J = TypeVar("J", bound=msgspec.Struct)
A = TypeVar("A", bound=msgspec.Struct)

_END_S = 10


class Worker(Generic[A]):
    """The process, seen from the measurement; ends with the `with` block."""

    def __init__(
        self,
        module: str,
        *arguments: str,
        answer: type[A],
        environment: Mapping[str, str] | None = None,
        name: str | None = None,
    ) -> None:
        """Start it.

        Args:
            module: Run with ``python -m``; calls `work_on_jobs`.
            arguments: Of its command line.
            answer: Type of its answers.
            environment: Variables beside this process's own.
            name: For messages; default the module and its first argument.
        """
        self._name = name or " ".join([module.rpartition(".")[2], *arguments[:1]])
        self._answer = answer
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # When it ended before, what was left in the buffer is lost with it.
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def ask(self, job: msgspec.Struct) -> A:
        """Hand over a job and wait for the answer.

        Raises:
            BenchmarkError: The process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(msgspec.json.encode(job) + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            raise BenchmarkError(f"the process of {self._name} ended; its error is above")
        return msgspec.json.decode(line, type=self._answer)


def work_on_jobs(job_type: type[J], work: Callable[[J], msgspec.Struct]) -> None:
    """In the process: answer jobs until there are no more.

    Libraries print to standard output now and then; what they print goes to standard error instead.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        answers.write(msgspec.json.encode(work(msgspec.json.decode(line, type=job_type))) + b"\n")
        answers.flush()
