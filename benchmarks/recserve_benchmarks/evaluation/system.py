"""What every system of an evaluation is: a name, settings to choose from, and scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from recserve_benchmarks.evaluation.ranking import NEVER, Known
from recserve_server_ext.common.arrays import Floats, Scores

Settings = Mapping[str, Any]
Kind = Literal["popularity", "text", "log", "blend"]


@dataclass(frozen=True, kw_only=True)
class System:
    """A system.

    Attributes:
        name: Of it, in tables.
        kind: What it knows: counts, texts, the log of all users, or several of these.
        grid: Settings to choose from on validation; one = nothing to choose.
        score: [n, items] of what is known and some settings; -inf = not ranked.
        base: Name of an earlier system; what was chosen for that one is added to every settings of the grid.
    """

    name: str
    kind: Kind
    score: Callable[[Known, Settings], Scores]
    grid: tuple[Settings, ...] = ({},)
    base: str | None = None


def scored(scores: Floats | Scores, known: Known) -> Scores:
    """The scores, but no user without a history is scored: systems that need one have nothing to say."""
    return np.where(known.lengths[:, None] > 0, scores, NEVER).astype(np.float32)
