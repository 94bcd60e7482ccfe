"""A process of its own for a system that is measured, so that no thread pool of one system is part of another.

It is run as ``python -m recserve_benchmarks.harness.worker`` and speaks pickles over its standard streams.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

from recserve_benchmarks.errors import BenchmarkError

J = TypeVar("J")
A = TypeVar("A")
_END_S: Final = 10


class Worker(Generic[J, A]):
    """A process that answers one job after the other and ends with the `with` block."""

    def __init__(
        self,
        name: str,
        make: Callable[..., Callable[[J], A]],
        *arguments: Any,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start the process.

        Args:
            name: Names the process in messages.
            make: A function of a module, called in the process; returns what answers a job.
            arguments: Of `make`; they and all jobs and answers must be picklable.
            environment: Variables of the process beside those of this one.
        """
        self._name = name
        command = [sys.executable, "-m", "recserve_benchmarks.harness.worker"]
        environment = {**os.environ, **(environment or {})}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._jobs, self._answers = self._process.stdin, self._process.stdout
        pickle.dump((make, arguments), self._jobs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with suppress(BrokenPipeError):
            self._jobs.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()

    def pin(self, cores: Collection[int]) -> None:
        """Keep the process to these cores; for one that has no threads yet."""
        os.sched_setaffinity(self._process.pid, cores)

    def ask(self, job: J) -> A:
        """Hand over a job and wait for the answer.

        Raises:
            BenchmarkError: The process ended.
        """
        try:
            pickle.dump(job, self._jobs)
            self._jobs.flush()
            answer: A = pickle.load(self._answers)
        except (EOFError, BrokenPipeError):
            raise BenchmarkError(f"the process of {self._name} ended; its error is above") from None
        return answer


def _answer_jobs() -> None:
    """Answer the jobs of standard input until there are no more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    make, arguments = pickle.load(sys.stdin.buffer)
    work = make(*arguments)
    with suppress(EOFError):
        while True:
            pickle.dump(work(pickle.load(sys.stdin.buffer)), answers)
            answers.flush()


if __name__ == "__main__":
    try:
        _answer_jobs()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # threads of a library must not keep the process
