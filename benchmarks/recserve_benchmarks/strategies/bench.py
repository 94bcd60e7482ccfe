"""`recserve bench strategies`: what a user costs by each strategy that a home serves, in interleaved rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.harness.report import setup
from recserve_benchmarks.harness.run import Rounds, Run
from recserve_benchmarks.harness.servers import CALLERS, ECHO, Server, echo, ours
from recserve_benchmarks.strategies.homes import MeasuredHome, made_home, own_home
from recserve_client import Client, ClientOptions, item
from recserve_client.contract import Behaviour, RecommendRequest, models, pack
from recserve_client.errors import RecserveError
from recserve_server_ext.common.arrays import Rows
from recserve_server_ext.index.space import TEXT
from recserve_server_ext.strategies.registry import Registry

BEHAVIOURS: Final = 20
_USERS, _QUICK_USERS = 2000, 100
_ECHO_TIMES: Final = 5
FUSION: Final = "fusion"
#: What the fusions of the measurement are made of.
_FUSED: Final = (TEXT, "als", "ease", "item_knn", "transitions")
_DEADLINE_S: Final = 60.0


def measure(run: Run, sizes: Sequence[int]) -> dict[str, Any]:
    """Measure the strategies of the home, or of a made-up home of each size.

    Returns:
        `strategies`: figures by strategy, of the smallest home; `sizes`: all figures by number of items.

    Raises:
        BenchmarkError: Requests failed, or a process ended.
        ServerError: A server did not start, or something cannot be read.
    """
    found: dict[str, dict[str, Any]] = {}
    for size in sorted(sizes) or [0]:
        home = made_home(run, size) if size else own_home(run)
        found[str(len(home.ids))] = _of_home(run, home)
    first = next(iter(found.values()))
    about = setup(run, items=len(home.ids), callers=CALLERS, behaviours=BEHAVIOURS, made_up=bool(sizes))
    return {"strategies": first["strategies"], "sizes": found, "setup": about}


def _of_home(run: Run, home: MeasuredHome) -> dict[str, Any]:
    rounds, count = Rounds(), _QUICK_USERS if run.quick else _USERS
    with ours(home.home, run.manifest.precision) as server:
        asked, refused = _served(server, home)
        drawn = _histories(home, 64, [run.seed, 0])
        sample = server.ask(models.RECOMMEND, _requests(home, drawn, "text", {}), keep_answers=True).answers
        for strategy in asked.values():  # so that nothing is loaded or computed for the first time in a round
            server.ask(models.RECOMMEND, _requests(home, drawn, *strategy))
        with echo(int(np.mean([len(answer) for answer in sample]))) as echo_server:
            for number in rounds.each(run):
                rows = _histories(home, count, [run.seed, 1 + number])
                repeated = np.resize(rows, (_ECHO_TIMES * count, BEHAVIOURS))
                bare = echo_server.cost(ECHO, _requests(home, repeated, "text", {})).cpu_us
                rounds.add("echo", cpu_us=bare)
                names = list(asked)
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    cost = server.cost(models.RECOMMEND, _requests(home, rows, *asked[name]))
                    of = cost.outcome
                    rounds.add(
                        f"strategies.{name}", cpu_us_per_user=cost.cpu_us - bare, p50_ms=of.p50_ms, p99_ms=of.p99_ms
                    )
    values = rounds.values
    for name in asked:
        own, text = (values[f"strategies.{of}.cpu_us_per_user"] for of in (name, TEXT))
        values[f"strategies.{name}.ratio_to_text"] = [a / b for a, b in zip(own, text, strict=True)]
    return {**rounds.results(), "refused": refused, "engines": home.engines}


def _served(server: Server, home: MeasuredHome) -> tuple[dict[str, tuple[str, Mapping[str, Any]]], dict[str, str]]:
    """What to ask for by name, as strategy and options; and why the other strategies cannot be asked."""
    asked: dict[str, tuple[str, Mapping[str, Any]]] = {}
    refused: dict[str, str] = {}
    with Client(server.address, ClientOptions(deadline_s=_DEADLINE_S)) as client:
        for name in Registry().names:
            if name == FUSION:  # it has no parts of its own
                continue
            try:
                client.recommend([item(home.ids[int(home.share.argmax())])], strategy=name)
            except RecserveError as error:
                refused[name] = str(error)
            else:
                asked[name] = name, {}
    parts = [name for name in _FUSED if name in asked]
    if TEXT not in parts:
        raise BenchmarkError(f"the strategy text does not answer: {refused[TEXT]}")
    weights = dict.fromkeys(parts, 1.0)
    asked[FUSION] = FUSION, {"weights": weights}
    asked[f"{FUSION}_by_rank"] = FUSION, {"weights": weights, "by": "rank"}
    return asked, refused


def _histories(home: MeasuredHome, users: int, seed: Sequence[int]) -> Rows:
    """[users, behaviours] items drawn as often as users turn to them."""
    rows: Rows = np.random.default_rng(seed).choice(len(home.ids), (users, BEHAVIOURS), p=home.share)
    return rows


def _requests(home: MeasuredHome, rows: Rows, strategy: str, options: Mapping[str, Any]) -> list[bytes]:
    return [
        pack(
            RecommendRequest(
                history=[Behaviour(item=home.ids[row]) for row in line], strategy=strategy, options=dict(options)
            )
        )
        for line in rows.tolist()
    ]
