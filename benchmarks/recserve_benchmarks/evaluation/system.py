"""A system of an evaluation: a name, settings to choose from, and scores."""

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
    """What is evaluated.

    Attributes:
        name: Shown in tables.
        kind: Whether it is served, or there to compare with.
        score: Scores [n, items] from what is known and settings; -inf where an item is not ranked.
        grid: Settings to choose from on validation.
    """

    name: str
    kind: Kind
    score: Callable[[Known, Settings], Scores]
    grid: tuple[Settings, ...] = ({},)
