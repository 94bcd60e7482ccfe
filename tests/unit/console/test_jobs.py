from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from recserve_console.audit import Audit
from recserve_console.jobs import BusyError, Job, Jobs


def run(home: Path, act: Callable[[Jobs], Job]) -> Job:
    """Start a job and wait for its end."""

    async def to_the_end() -> Job:
        jobs = Jobs(home, Audit(home))
        job = act(jobs)
        assert jobs._task is not None
        await jobs._task
        return job

    return asyncio.run(to_the_end())


def test_output_and_end_of_a_job_are_kept_and_written_down(tmp_path: Path) -> None:
    job = run(tmp_path, lambda jobs: jobs.start(("interactions", "stats")))
    assert job.state == "failed"
    assert any("error:" in line for line in job.lines)
    entries = [(entry.action, entry.what, entry.outcome) for entry in Audit(tmp_path).newest(9)]
    name = "recserve interactions stats"
    assert entries == [("job.end", name, "failed"), ("job.start", name, "done")]


def test_one_job_at_a_time(tmp_path: Path) -> None:
    def twice(jobs: Jobs) -> Job:
        job = jobs.start(("interactions", "stats"))
        with pytest.raises(BusyError, match="recserve interactions stats runs"):
            jobs.start(("catalogue", "stats"))
        return job

    assert run(tmp_path, twice).state == "failed"


def test_a_job_can_be_ended(tmp_path: Path) -> None:
    async def ended() -> Job:
        jobs = Jobs(tmp_path, Audit(tmp_path))
        job = jobs.start(("doctor",))
        while job.process is None:
            await asyncio.sleep(0)
        jobs.stop()
        assert jobs._task is not None
        await jobs._task
        return job

    assert asyncio.run(ended()).state == "ended"
