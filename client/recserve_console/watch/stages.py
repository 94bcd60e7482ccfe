"""How long each stage of a recommendation took between two pages of metrics, by strategy."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np

from recserve_client.contract.recommend import STAGES
from recserve_server_ext.triton.metrics.page import MetricsPage

_SLATES: Final = "recserve_slates_total"
_SECONDS: Final = "recserve_slate_stage_seconds"


class StageTime(NamedTuple):
    """Time of a stage.

    Attributes:
        slates: Slates that went through it.
        mean_ms: Its mean.
        p99_ms: Its 99th percentile, interpolated within a bucket of the histogram; that of the largest bound where
            it is above all of them.
    """

    slates: int
    mean_ms: float
    p99_ms: float


class StrategyTimes(NamedTuple):
    """What a strategy did.

    Attributes:
        strategy: Its name.
        slates: Slates that it made.
        cold: Those among them for want of a usable profile.
        stages: Time by stage; one that was not gone through is missing.
    """

    strategy: str
    slates: int
    cold: int
    stages: dict[str, StageTime]


def strategy_times(before: MetricsPage, after: MetricsPage) -> list[StrategyTimes]:
    """What each strategy did between two pages, the busiest first; one that did nothing is left out."""
    found = []
    for strategy in after.values(_SLATES, "strategy"):
        slates = after.grown_since(before, _SLATES, strategy=strategy)
        if slates > 0:
            cold = after.grown_since(before, _SLATES, strategy=strategy, profile="cold")
            timed = {stage: _stage_time(before, after, strategy, stage) for stage in STAGES}
            stages = {stage: time for stage, time in timed.items() if time is not None}
            found.append(StrategyTimes(strategy, round(slates), round(cold), stages))
    return sorted(found, key=lambda one: -one.slates)


def _stage_time(before: MetricsPage, after: MetricsPage, strategy: str, stage: str) -> StageTime | None:
    labels = {"strategy": strategy, "stage": stage}
    count = after.grown_since(before, f"{_SECONDS}_count", **labels)
    if count <= 0:
        return None
    bounds = sorted(after.values(f"{_SECONDS}_bucket", "le"), key=float)
    counts = [after.grown_since(before, f"{_SECONDS}_bucket", le=le, **labels) for le in bounds]
    finite = [(float(le), below) for le, below in zip(bounds, counts, strict=True) if math.isfinite(float(le))]
    limits_s, below = [0.0, *(limit for limit, _ in finite)], [0.0, *(number for _, number in finite)]
    p99_s = float(np.interp(0.99 * count, below, limits_s))
    mean_s = after.grown_since(before, f"{_SECONDS}_sum", **labels) / count
    return StageTime(round(count), mean_s * 1000, p99_s * 1000)
