"""Compares the serving cost of two checkouts, interleaved on one machine: ``compare_checkouts.py OLD NEW HOME``.

OLD and NEW are the Python programs of virtual environments that have a checkout installed. Each is served from its
home, `HOME/old` or `HOME/new`, which its own `recserve demo` makes where it is missing, with the settings of
`HOME/old.toml` or `HOME/new.toml`, where there are any. A figure of CPU is the time of all serving processes for a
request; a ratio is new by old within a round.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import psutil

PROGRAM = ["-m", "recserve_client.cli.main"]
KINDS = ("known", "user", "texts")
CALLERS, REQUESTS, USERS, HISTORY = 32, 3000, 256, 50
WORDS = ("space", "opera", "heist", "robot", "love", "war", "ocean", "jazz", "train", "island", "ghost", "king", "chef")


class Checkout:
    """A served checkout, and a worker that calls it with the client of the same checkout."""

    def __init__(self, python: Path, home: Path) -> None:
        self._python, self._home = str(python.absolute()), home
        if not (home / "snapshots").exists():
            command = [self._python, *PROGRAM, "demo", "--home", str(home)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def start(self) -> float:
        """Serve; returns the seconds until it is ready."""
        ready = Path(tempfile.mkdtemp()) / "ready.json"
        begin = time.monotonic()
        options = ["--grpc-port", "0", "--metrics-port", "0", "--ready-file", str(ready), "--home", str(self._home)]
        settings = self._home.with_suffix(".toml")
        options += ["--config", str(settings)] if settings.exists() else []
        self._server = psutil.Popen([self._python, *PROGRAM, "serve", *options], stderr=subprocess.DEVNULL)
        while not ready.exists():
            time.sleep(0.02)
        seconds = time.monotonic() - begin
        self._worker = subprocess.Popen(
            [self._python, __file__, "--worker", json.loads(ready.read_text())["grpc"]],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        return seconds

    def call(self, kind: str) -> float:
        """CPU microseconds of the serving processes for a request of this kind."""
        assert self._worker.stdin
        assert self._worker.stdout
        before = self._cpu_s()
        self._worker.stdin.write(f"{kind}\n")
        self._worker.stdin.flush()
        count = int(self._worker.stdout.readline())
        return (self._cpu_s() - before) / count * 1e6

    def memory_mib(self) -> float:
        """Proportional set size of the serving processes."""
        return float(sum(one.memory_full_info().pss for one in self._family()) / 2**20)

    def stop(self) -> None:
        """End the worker and the server."""
        self._worker.kill()
        self._server.terminate()
        self._server.wait(60)

    def _family(self) -> list[psutil.Process]:
        server = psutil.Process(self._server.pid)
        return [server, *server.children(recursive=True)]

    def _cpu_s(self) -> float:
        times = [one.cpu_times() for one in self._family()]
        return float(sum(one.user + one.system for one in times))


async def worker(address: str) -> None:
    """Make requests of the kinds named on standard input; answer each line with the number of them."""
    from recserve_client import AsyncClient, item, text
    from recserve_client.contract import NewInteraction

    def view(user: int, found: str, timestamp: float) -> Any:
        return NewInteraction(user_id=f"gate {user}", type="view", timestamp=timestamp, item=found)

    rng = random.Random(7)
    async with AsyncClient(address) as client:
        found = (await client.recommend([text("space")], k=1000)).items
        ids = [one.id for one in found]
        for number in range(USERS):
            picked, now = rng.sample(ids, HISTORY), time.time()
            acts = [view(number, one, now - age) for age, one in enumerate(picked)]
            await client.interactions.record(acts)

        def request(kind: str) -> Any:
            if kind == "known":
                return client.recommend([item(one) for one in rng.sample(ids, 10)])
            if kind == "user":
                return client.recommend_for(f"gate {rng.randrange(USERS)}")
            return client.recommend([text(" ".join(rng.choices(WORDS, k=8)))])

        async def caller(kind: str, count: int) -> None:
            for _ in range(count):
                await request(kind)

        for line in iter(sys.stdin.readline, ""):
            count = REQUESTS // (4 if line.strip() == "texts" else 1) // CALLERS
            await asyncio.gather(*(caller(line.strip(), count) for _ in range(CALLERS)))
            print(count * CALLERS, flush=True)


def main(old: Path, new: Path, home: Path, rounds: int = 7) -> None:
    """Measure and print a table."""
    pair = {"old": Checkout(old, home / "old"), "new": Checkout(new, home / "new")}
    figures: dict[str, list[tuple[float, float]]] = {}

    def note(name: str, values: dict[str, float]) -> None:
        figures.setdefault(name, []).append((values["old"], values["new"]))

    for number in range(rounds):
        names = ["old", "new"] if number % 2 else ["new", "old"]
        note("start_s", {name: pair[name].start() for name in names})
        for kind in KINDS:
            for name in names:  # the first requests fill caches
                pair[name].call(kind)
            note(f"{kind}_cpu_us", {name: pair[name].call(kind) for name in names})
        note("memory_mib", {name: pair[name].memory_mib() for name in names})
        for one in pair.values():
            one.stop()
    print("| figure | old | new | new / old | rounds |\n|---|---|---|---|---|")
    for name, values in figures.items():
        before, after = (median(one) for one in zip(*values, strict=True))
        ratios = sorted(new / old for old, new in values)
        print(f"| {name} | {before:.1f} | {after:.1f} | {median(ratios):.3f} | {ratios[0]:.3f} to {ratios[-1]:.3f} |")


if __name__ == "__main__":
    if sys.argv[1] == "--worker":
        asyncio.run(worker(sys.argv[2]))
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
