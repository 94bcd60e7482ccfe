"""A clock that jumps forwards and back while a server is under load: deadlines, limits, counts and sessions go on."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest

from recserve_client import Client, ClientOptions, NewItem, interaction, item, text
from recserve_client.errors import RecserveError
from support.clock import NoCompilerError, ShiftedClock
from support.served import Served, served
from support.tiny_home import copy_home

pytestmark = [pytest.mark.triton, pytest.mark.timeout(600)]
ONCE = ClientOptions(tries=1, deadline_s=30)
_HOUR_S, _DAY_S = 3600, 24 * 3600
_SETTINGS = """
compact_after = 0
[users]
counts.every_s = 0.05
log.every_s = 0.05
"""


def test_nothing_fails_and_nothing_stops_when_the_clock_jumps(
    tiny_home: Path, films: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        clock = ShiftedClock(tmp_path)
    except NoCompilerError as error:
        pytest.skip(str(error))
    for name, value in clock.environment.items():
        monkeypatch.setenv(name, value)
    home, failed, answered = copy_home(tiny_home, tmp_path / "home"), list[str](), Counter[int]()
    done, progress = threading.Event(), threading.Condition()

    def call(number: int, address: str) -> None:
        with Client(address, ONCE) as client:
            while not done.is_set():
                try:
                    match number:
                        case 0:
                            client.recommend([item(films[answered[0] % len(films)])], k=3)
                        case 1:
                            client.recommend([text(f"a heist {answered[1]}")], k=3)
                        case _:
                            client.recommend_for("ann", session=[item(films[3])], k=3)
                except RecserveError as error:
                    failed.append(f"{number}: {error.status}: {error.message}")
                with progress:
                    answered[number] += 1
                    progress.notify_all()

    with served(home, settings=_SETTINGS) as server, ThreadPoolExecutor(3) as threads:
        callers = [threads.submit(call, number, server.grpc) for number in range(3)]
        try:
            with Client(server.grpc, ONCE) as client:
                for n, shift_s in enumerate((_DAY_S, -_DAY_S, 40 * _DAY_S, -_HOUR_S, 1, 0)):
                    clock.shift(shift_s)
                    before = Counter(answered)
                    after_a_jump(client, films[10 + n], n, time.time() + shift_s)
                    with progress:
                        assert progress.wait_for(partial(all_answered, answered, before), 60)
        finally:
            done.set()
        for caller in callers:
            caller.result(timeout=60)
        eventually(lambda: logged(server) > 20)
        assert failed == []
        quiet = ("model_unhealthy", "model_reloaded", "server_stuck", "server_exited", "certificate_refused")
        assert server.logged(*quiet) == []
        page = httpx.get(f"http://{server.metrics}/metrics", trust_env=False).text
        shed = [line for line in page.splitlines() if line.startswith("recserve_requests_shed_total")]
        assert all(line.endswith(" 0") for line in shed)


def all_answered(answered: Counter[int], before: Counter[int]) -> bool:
    """Whether each caller has been answered some more times."""
    return all(answered[number] > before[number] + 5 for number in range(3))


def after_a_jump(client: Client, film: str, number: int, now_s: float) -> None:
    """What is recorded and changed after a jump is served after it."""
    new = interaction("ann", "view", film, event_id=f"e{number}", timestamp=now_s)
    assert client.interactions.record([new]).results[0].status == "recorded"
    revision = client.items.upsert([NewItem(f"n{number}", {"title": f"after the jump {number}"})]).revision
    found = client.recommend([text(f"after the jump {number}")], k=1, min_revision=revision)
    assert found.items[0].id == f"n{number}"
    assert film not in [one.id for one in client.recommend_for("ann", k=300).items]
    popular = partial(client.recommend_for, "nobody", strategy="popular", k=300, options={"by": "recent"})
    eventually(lambda: film in [one.id for one in popular().items])  # it was counted


def logged(server: Served) -> float:
    """Answers logged so far."""
    page = httpx.get(f"http://{server.metrics}/metrics", trust_env=False).text
    lines = [line for line in page.splitlines() if line.startswith("recserve_answers_logged_total")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def eventually(holds: Callable[[], bool]) -> None:
    """Ask until something holds."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
