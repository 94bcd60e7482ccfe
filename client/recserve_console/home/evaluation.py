"""What `recserve evaluate` found on the home's log: figures with intervals, and what it chose."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.common.files import reading
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.strategies.parts.chosen import Choice, EvaluationFile

#: Normal quantile of a 95% interval.
_Z95: Final = 1.96


class Figure(NamedTuple):
    """NDCG@10 of a system on the test part.

    Attributes:
        system: Name of the strategy or the baseline.
        is_baseline: Whether it is not a strategy that can be served.
        mean: Mean over users.
        low: Lower bound of the mean's 95% interval.
        high: Upper bound.
        against: Name of the system it is compared with; empty where there is none.
        difference: Mean difference from that one, with the bounds of its 95% interval; `None` without.
        p: p of that difference, corrected for the number of comparisons; `None` without.
    """

    system: str
    is_baseline: bool
    mean: float
    low: float
    high: float
    against: str
    difference: tuple[float, float, float] | None
    p: float | None


class Evaluated(NamedTuple):
    """A saved evaluation.

    Attributes:
        made: When, as the file says.
        users: Users of the log.
        interactions: Interactions of the log.
        protocols: Figures by protocol, the best first.
        chosen: What `auto` serves, by the activity of a user.
    """

    made: str
    users: int
    interactions: int
    protocols: dict[str, list[Figure]]
    chosen: dict[str, Choice | None]


def evaluation_of(home: Path) -> Evaluated | None:
    """The evaluation of a home's own log; `None` without one. Raises ConfigError where it cannot be read."""
    path = Workspace(home).evaluation
    if not path.is_file():
        return None
    with reading(path, ConfigError, "evaluate again: recserve evaluate"):
        found = msgspec.json.decode(path.read_bytes(), type=EvaluationFile)
        protocols = {
            name: sorted(_figures(systems), key=lambda one: -one.mean) for name, systems in found.protocols.items()
        }
    return Evaluated(
        str(found.data.get("evaluated", "")),
        int(found.data.get("users", 0)),
        int(found.data.get("interactions", 0)),
        protocols,
        {name: getattr(found.chosen, name) for name in found.chosen.__struct_fields__},
    )


def _figures(systems: dict[str, Any]) -> Iterator[Figure]:
    for name, of in systems.items():
        if not isinstance(figure := of.get("ndcg_at_10"), dict):
            continue
        mean, half = float(figure["mean"]), _Z95 * float(figure.get("se") or 0)
        against = of.get("against") or {}
        difference = (against["difference"], against["low"], against["high"]) if against else None
        yield Figure(
            name,
            of.get("kind") == "baseline",
            mean,
            max(mean - half, 0.0),
            mean + half,
            against.get("reference", ""),
            difference,
            against.get("p_corrected"),
        )
