"""Trainings by command in the process of the tests leave its priority alone: no process may raise its own again."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def yielded(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """The processes that a command made yield the CPU and the disk; `None` for its own."""
    found: list[int | None] = []
    monkeypatch.setattr("recserve_export.cli.train.commands.yield_to_others", lambda pid=None: found.append(pid))
    return found
