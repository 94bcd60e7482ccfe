"""What every system of an evaluation is: a name, settings to choose from, and scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from recserve_benchmarks.evaluation.ranking import Known
from recserve_server_ext.common.arrays import Scores

Settings = Mapping[str, Any]
Kind = Literal["baseline", "strategy"]


@dataclass(frozen=True, kw_only=True)
class System:
    """A system.

    Attributes:
        name: Of it, in tables.
        kind: Whether it is served, or there to compare with.
        grid: Settings to choose from on validation; one = nothing to choose.
        score: [n, items] of what is known and some settings; -inf = not ranked.
    """

    name: str
    kind: Kind
    score: Callable[[Known, Settings], Scores]
    grid: tuple[Settings, ...] = ({},)
