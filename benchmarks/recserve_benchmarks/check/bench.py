"""`recserve bench check`: a short run of the ratios of serving, and which of them moved since a recorded run."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from rich.console import RenderableType
from scipy import stats

from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.harness.report import cautions, setup, table, title
from recserve_benchmarks.harness.run import Run
from recserve_benchmarks.harness.servers import Server
from recserve_benchmarks.recommend.bench import CHECK, RecommendBench
from recserve_benchmarks.users.people import by_user_requests, people, record_requests
from recserve_client.contract import NewInteraction, models

#: Figures that are compared, and whether more is better.
FIGURES: Final = {
    "known.ratio_to_raw": True,
    "known.overhead_to_echo": False,
    "chosen.overhead_to_echo": False,
    "texts.ratio_to_raw_cpu": True,
    "user.cost_to_known": False,
}
#: A smaller change for the worse is not reported as one.
_NOTABLE: Final = 0.03
_CONFIDENCE: Final = 0.95
_USERS: Final = 512
_BEHAVIOURS: Final = 50
_RECORDED: Final = 100


class Change(NamedTuple):
    """How a figure changed.

    Attributes:
        before: Median of the recorded rounds.
        now: Median of these rounds.
        low: Lower end of the 95% interval of now / before.
        high: Its upper end.
        is_worse: Whether the interval is on the worse side of 1, and the change notable.
    """

    before: float
    now: float
    low: float
    high: float
    is_worse: bool


def measure(run: Run) -> dict[str, Any]:
    """Measure the ratios, interleaved; all values of each by round.

    Raises:
        BenchmarkError: Requests failed, or a process ended.
        ServerError: A server did not start.
    """
    bench = RecommendBench(run, CHECK)
    some = people("check", _BEHAVIOURS, _USERS, items=bench.items, seed=run.seed)
    now = time.time()
    interactions = [
        NewInteraction(user_id=user, type="like", timestamp=now - 3600 * (1 + number), item=f"t{row}")
        for user, rows in zip(some.ids, some.rows.tolist(), strict=True)
        for number, row in enumerate(rows)
    ]

    def by_user(server: Server, known_cpu_us: float) -> dict[str, float]:
        return {"cost_to_known": server.cost(models.RECOMMEND, by_user_requests(some)).cpu_us / known_cpu_us}

    def record(server: Server) -> None:
        server.ask(models.INTERACTIONS, record_requests(interactions, _RECORDED))

    rounds = bench.ratios(record, by_user)
    return {**rounds, "setup": setup(run, items=bench.items, sizes=CHECK._asdict())}


def read_baseline(path: Path, results: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded run of the same kind of CPU and the same size.

    Raises:
        BenchmarkError: The file cannot be read, or is of another kind of CPU, encoder precision or number of items.
    """
    try:
        baseline: dict[str, Any] = json.loads(path.read_text())
        of, own = baseline["setup"], results["setup"]
        for name in ("int8_arithmetic", "cores", "items"):
            if of[name] != own[name]:
                raise BenchmarkError(f"{path} was recorded with {name} {of[name]}, this run has {own[name]}")
        if of["encoder"]["precision"] != own["encoder"]["precision"]:
            raise BenchmarkError(f"{path} was recorded with an encoder of {of['encoder']['precision']}")
        for name in FIGURES:
            np.array(baseline["rounds"][name], np.float64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(f"{path} is no file of `recserve bench check --json`: {error}") from None
    return baseline


def changes(baseline: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Change]:
    """How each figure changed: the ratio of medians, with a bootstrap interval (percentiles) over the rounds."""
    found = {}
    for name, more_is_better in FIGURES.items():
        before, now = (np.array(of["rounds"][name], np.float64) for of in (baseline, results))
        interval = stats.bootstrap(
            (before, now),
            lambda old, new, axis: np.median(new, axis=axis) / np.median(old, axis=axis),
            confidence_level=_CONFIDENCE,
            method="percentile",
            random_state=np.random.default_rng(0),
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
        ratio = float(np.median(now) / np.median(before))
        is_worse = (high < 1 and ratio < 1 - _NOTABLE) if more_is_better else (low > 1 and ratio > 1 + _NOTABLE)
        found[name] = Change(float(np.median(before)), float(np.median(now)), low, high, is_worse)
    return found


def parts(results: Mapping[str, Any], found: Mapping[str, Change] | None) -> list[RenderableType]:
    """Lines and a table of the figures, and of how they changed."""
    if found is None:
        medians = [(name, f"{np.median(results['rounds'][name]):.3f}") for name in FIGURES]
        return [title(results), table(("figure", "now"), medians), *cautions(results)]
    rows = [
        (name, *(f"{value:.3f}" for value in (of.before, of.now, of.now / of.before, of.low, of.high)), _word(of))
        for name, of in found.items()
    ]
    headings = ("figure", "before", "now", "now / before", "from", "to (95%)", "")
    return [title(results), table(headings, rows), *cautions(results)]


def _word(of: Change) -> str:
    if of.is_worse:
        return "[bold red]worse[/]"
    return "" if of.low <= 1 <= of.high else "moved"
