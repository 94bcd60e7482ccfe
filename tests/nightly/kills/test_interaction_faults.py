"""The interaction store under faults: what was acknowledged is there, once, whatever dies."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from recserve_server_ext.common.errors import InteractionError
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.interactions.tables import interactions, seen
from support import recording_process
from support.events import event
from support.postgres import Postgres

LONG_S = 60.0


class Recorder:
    """The recording program; each fork of it is killed after some acknowledgements and at a random moment."""

    def __init__(self, where: Path | str) -> None:
        program = [sys.executable, recording_process.__file__, str(where)]
        self.process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.acknowledged: list[str] = []

    def killed_after(self, count: int, wait_s: float) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("next\n")
        self.process.stdin.flush()
        child = int(self.process.stdout.readline().removeprefix("pid "))
        while count and (line := self.process.stdout.readline()):
            self.acknowledged += line.split()[1:]
            count -= 1
        time.sleep(wait_s)  # no event to wait for: any moment of a transaction is meant
        os.kill(child, signal.SIGKILL)
        while (line := self.process.stdout.readline()) and line != "dead\n":
            self.acknowledged += line.split()[1:]
        assert line == "dead\n"

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(LONG_S) == 0


def check(store: InteractionStore, acknowledged: list[str]) -> None:
    """Every acknowledged interaction is there once, and batches are there whole or not at all."""
    with store.database.reading() as connection:
        stored = list(connection.execute(sa.select(interactions.c.event_id)).scalars())
        items = set(connection.execute(sa.select(seen.c.item)).scalars())
    assert len(set(acknowledged)) == len(acknowledged)
    assert set(acknowledged) <= set(stored)
    assert len(set(stored)) == len(stored)
    assert items == set(stored)
    batches = {one.rpartition("-")[0] for one in stored}
    assert len(stored) == recording_process.BATCH * len(batches)


@pytest.mark.parametrize(("kind", "kills"), [("sqlite", 120), ("postgresql", 30)])
def test_kill_9_loses_nothing_acknowledged(
    kind: str, kills: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    where = tmp_path / "i.db" if kind == "sqlite" else request.getfixturevalue("postgres").empty()
    chance = random.Random(kills)
    with InteractionStore(where, create=True) as store:
        recorder = Recorder(where)
        for number in range(kills):
            recorder.killed_after(chance.randrange(6), chance.uniform(0, 0.03))
            if number % 10 == 9:
                check(store, recorder.acknowledged)
        recorder.close()
        check(store, recorder.acknowledged)
        assert len(recorder.acknowledged) >= kills
        if store.database.is_sqlite:
            with store.database.reading() as connection:
                assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"


def test_a_database_server_that_crashes_under_load_loses_nothing_acknowledged(postgres: Postgres) -> None:
    state = Load()
    with InteractionStore(postgres.empty(), create=True) as store, ThreadPoolExecutor(4) as pool:
        try:
            running = [pool.submit(state.record, store, number) for number in range(4)]
            for crash in range(3):
                state.wait(lambda wanted=30 * (crash + 1): len(state.acknowledged) >= wanted)  # type: ignore[misc]  # a default binds it now
                failures = state.failures
                postgres.stop("immediate")
                try:
                    state.wait(lambda failures=failures: state.failures > failures)  # type: ignore[misc]  # the same
                finally:
                    postgres.start()
            after = len(state.acknowledged)
            state.wait(lambda: len(state.acknowledged) > after)
        finally:
            state.is_over = True
        for one in running:
            one.result(LONG_S)
        check(store, state.acknowledged)


class Load:
    """Threads that record, and send again what failed, until it is over."""

    def __init__(self) -> None:
        self.acknowledged: list[str] = []
        self.failures = 0
        self.is_over = False
        self._changed = threading.Condition()

    def record(self, store: InteractionStore, thread: int) -> None:
        number = 0
        while not self.is_over:
            ids = [f"{thread}-{number}-{k}" for k in range(recording_process.BATCH)]
            try:
                answers = store.record([event(item=one, event_id=one, timestamp=number) for one in ids])
            except InteractionError:
                # Perhaps committed, perhaps not: sent again, which is safe.
                with self._changed:
                    self.failures += 1
                    self._changed.notify_all()
                    self._changed.wait(0.01)
                continue
            assert {answer.status for answer in answers} <= {"recorded", "duplicate"}
            with self._changed:
                self.acknowledged += ids
                self._changed.notify_all()
            number += 1

    def wait(self, until: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(until, LONG_S)


def test_a_full_disk_loses_nothing_acknowledged_and_takes_more_when_there_is_room(small_disk: Path) -> None:
    acknowledged: list[str] = []
    with InteractionStore(small_disk / "i.db", create=True) as store:

        def record(number: int) -> None:
            ids = [f"{number}-{k}" for k in range(recording_process.BATCH)]
            answers = store.record([event(item=one, event_id=one, timestamp=1, session_id="x" * 99) for one in ids])
            assert {answer.status for answer in answers} == {"recorded"}
            acknowledged.extend(ids)

        def fill() -> None:
            for number in range(100_000):
                record(number)

        with pytest.raises(InteractionError, match="disk"):
            fill()
        assert len(acknowledged) > 100
        check(store, acknowledged)
        subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
        record(100_000)
        check(store, acknowledged)
