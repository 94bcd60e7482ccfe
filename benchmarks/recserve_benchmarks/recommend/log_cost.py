"""What the log of answers costs: the same requests to a server that logs nothing and to one that logs every answer.

Run as ``python -m recserve_benchmarks.recommend.log_cost``; both servers run at once and are put under load in turn.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from recserve_benchmarks.harness.corpus import infer_requests
from recserve_benchmarks.harness.report import machine
from recserve_benchmarks.harness.servers import LoadCost, Server, ours
from recserve_client import Client, interaction
from recserve_client.contract import Behaviour, RecommendForRequest, RecommendRequest, models, pack
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace
from recserve_server_ext.index.snapshot import Snapshot, current

_CALLERS: Final = 32
_BEHAVIOURS: Final = 20
_SHARES: Final = {"off": 0, "on": 1}
_RECORDED: Final = 5000


@contextmanager
def serving(workspace: Workspace, precision: str, share: int) -> Iterator[Server]:
    """A server over the encoder and the snapshots of a home, with an interaction store of its own."""
    with tempfile.TemporaryDirectory() as aside:
        home = Path(aside)
        for folder in (workspace.encoder, workspace.snapshots):
            (home / folder.name).symlink_to(folder.resolve(), target_is_directory=True)
        config = home / "settings.toml"
        config.write_text(f"users.log.plain = {share}.0\nusers.log.by_user = {share}.0\n")
        with ours(home, precision, "--config", str(config)) as server:
            yield server


def measure(workspace: Workspace, precision: str, *, rounds: int, requests: int, users: int) -> dict[str, Any]:
    """Medians over the rounds, for plain requests and for those by user id."""
    ids = Snapshot.load(current(workspace.snapshots)).ids
    rng = np.random.default_rng(0)
    histories = {n: [ids[row] for row in rng.choice(len(ids), _BEHAVIOURS, replace=False)] for n in range(users)}
    costs: dict[str, list[LoadCost]] = {}
    with ExitStack() as stack:
        servers = {name: stack.enter_context(serving(workspace, precision, share)) for name, share in _SHARES.items()}
        for server in servers.values():
            _record(server, histories)
        for number in range(rounds):
            # Every request has a history of its own, and both servers get the same ones.
            rows = rng.integers(len(ids), size=(requests, _BEHAVIOURS))
            plain = [pack(RecommendRequest([Behaviour(item=ids[row]) for row in line])) for line in rows.tolist()]
            by_user = [pack(RecommendForRequest(f"user {n}")) for n in rng.permutation(users).tolist()]
            for name in list(servers)[:: 1 if number % 2 else -1]:
                for kind, packed in (("plain", plain), ("by_user", by_user)):
                    cost = servers[name].under_load(infer_requests(models.RECOMMEND, packed), _CALLERS)
                    costs.setdefault(f"{kind}.{name}", []).append(cost)
    return {name: _summed(of) for name, of in costs.items()}


def _record(server: Server, histories: dict[int, list[str]]) -> None:
    acts = [interaction(f"user {n}", "like", item) for n, items in histories.items() for item in items]
    with Client(server.address) as client:
        for start in range(0, len(acts), _RECORDED):
            client.interactions.record(acts[start : start + _RECORDED])


def _summed(costs: Sequence[LoadCost]) -> dict[str, float]:
    return {
        "cpu_us": median(cost.cpu_us for cost in costs),
        "per_s": median(cost.outcome.users_per_s for cost in costs),
        "p50_ms": median(cost.outcome.p50_ms for cost in costs),
        "p99_ms": median(cost.outcome.p99_ms for cost in costs),
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m recserve_benchmarks.recommend.log_cost", description=__doc__)
    parser.add_argument("--home", type=Path, default=DEFAULT_HOME)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=4000, help="plain ones of a round, to each server")
    parser.add_argument("--users", type=int, default=1500)
    given = parser.parse_args()
    found = measure(
        Workspace(given.home), given.precision, rounds=given.rounds, requests=given.requests, users=given.users
    )
    for kind in ("plain", "by_user"):
        off, on = found[f"{kind}.off"], found[f"{kind}.on"]
        found[kind] = {name: on[name] / off[name] for name in off}
    json.dump({**found, "setup": {**machine(), "callers": _CALLERS}}, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
