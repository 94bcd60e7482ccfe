"""`recserve bench evaluate`: duration and memory of evaluations of made-up logs, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from rich.console import RenderableType

from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.harness.report import machine, table
from recserve_benchmarks.harness.run import Show

_DIM: Final = 384


class Size(NamedTuple):
    """Size of a made-up log."""

    users: int
    items: int
    interactions: int


SIZES: Final = {
    "small": Size(1_000, 1_700, 100_000),
    "medium": Size(671, 9_066, 100_000),
    "large": Size(341_000, 271_000, 1_150_000),
}


def measure(names: Sequence[str], systems: Sequence[str], users: int, seed: int, show: Show) -> dict[str, Any]:
    """Evaluate logs by name.

    Args:
        names: Names in `SIZES`.
        systems: Systems to evaluate; all if none.
        users: Users of a part at most; 0 for all.
        seed: Of the logs.
        show: Shows progress.

    Raises:
        BenchmarkError: An evaluation failed.
    """
    logs = {}
    for done, name in enumerate(names):
        show(f"evaluate {name}", done, len(names))
        logs[name] = _in_a_process(SIZES[name], systems, users, seed)
    return {"setup": {**machine(), "users_of_a_part": users, "seed": seed, "made_up": True}, "logs": logs}


def parts(results: dict[str, Any]) -> list[RenderableType]:
    """A table of the logs, and of the systems of the largest."""
    rows = []
    for name, of in results["logs"].items():
        sizes = (f"{of[size]:,}" for size in ("interactions", "users", "items"))
        rows.append((name, *sizes, f"{of['seconds']:.0f}", f"{of['peak_mib']:,.0f}"))
    headings = ("made-up log", "interactions", "users", "items", "seconds", "peak MiB")
    last = list(results["logs"].values())[-1]
    systems = [(name, f"{of['seconds']:.1f}", f"{of['peak_mib']:,.0f}") for name, of in last["systems"].items()]
    return [table(headings, rows), table(("system, largest log", "seconds", "peak MiB"), systems)]


def _in_a_process(size: Size, systems: Sequence[str], users: int, seed: int) -> dict[str, Any]:
    arguments = json.dumps([*size, list(systems), users, seed])
    command = [sys.executable, "-m", "recserve_benchmarks.evaluation.bench", arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise BenchmarkError(
            f"the evaluation failed: {(ran.stderr.strip().splitlines() or [f'exit code {ran.returncode}'])[-1]}"
        )
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def _evaluated(size: Size, systems: Sequence[str], users: int, seed: int) -> dict[str, Any]:
    """Evaluate a made-up log in this process, with random text vectors."""
    from recserve_benchmarks.evaluation.log.data import Dataset
    from recserve_benchmarks.evaluation.log.made_log import made_log, unit_vectors
    from recserve_benchmarks.evaluation.run import Plan, evaluate
    from recserve_benchmarks.evaluation.systems import named

    columns = made_log(users=size.users, items=size.items, interactions=size.interactions, seed=seed)
    dataset = Dataset(columns, unit_vectors(size.items, _DIM), {})
    found = evaluate(dataset, named(systems), Plan(most_users=users or None), _silent)
    peaks = {
        name: max(of[name]["peak_mib"] for of in found.protocols.values())
        for name in next(iter(found.protocols.values()))
        if all("peak_mib" in of[name] for of in found.protocols.values())
    }
    of_systems = {name: {"seconds": found.seconds[name], "peak_mib": peaks[name]} for name in peaks}
    return {
        **size._asdict(),
        "seconds": found.data["seconds"],
        "shared_s": found.data["shared_s"],
        "peak_mib": found.data["peak_mib"],
        "systems": of_systems,
    }


def _silent(what: str, count: int, total: int) -> None:
    pass


if __name__ == "__main__":
    *sizes, names, users_of_a_part, of_logs = json.loads(sys.argv[1])
    print(json.dumps(_evaluated(Size(*sizes), names, users_of_a_part, of_logs)))
