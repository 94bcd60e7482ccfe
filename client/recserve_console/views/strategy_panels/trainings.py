"""Champion and challenger: what each training was compared with before it served, and what came of that."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from recserve_console.home.state import SpaceVersion
from recserve_console.views.parts.pieces import NONE, around_zero, card, muted, table
from recserve_export.training.run.verdict import Verdict

_ABOUT: Final = (
    "Each training is the challenger of the version that serves, the champion: both are asked for the newest part of "
    "the log, which neither has seen. The challenger serves unless the whole 95% interval of the difference is below 0."
)


def draw_trainings(versions: Sequence[SpaceVersion]) -> None:
    """Draw the comparisons of all versions into the current place."""
    judged = [(one, one.judged) for one in versions if one.judged is not None]
    if not judged:
        return
    scale = max((max(abs(of.low), abs(of.high)) for _, of in judged), default=0.0) or 1.0
    with card("Champion and challenger", _ABOUT):
        rows = [
            (
                one.space,
                one.version,
                of.champion or NONE,
                f"{of.users:,}" if of.users else NONE,
                *_figures(of),
                partial(_difference, of, scale),
                _outcome(one, of),
            )
            for one, of in judged
        ]
        columns = (
            "space",
            "challenger",
            "champion",
            "users",
            "its NDCG@10",
            "champion's",
            "difference (95%)",
            "outcome",
        )
        table(columns, rows, right=columns[3:6], label="Champion and challenger")


def _figures(of: Verdict) -> tuple[str, str]:
    return (f"{of.ndcg:.4f}", f"{of.champion_ndcg:.4f}") if of.users else (NONE, NONE)


def _difference(of: Verdict, scale: float) -> None:
    if not of.users:
        muted(NONE)
        return
    difference = of.ndcg - of.champion_ndcg
    muted(f"{difference:+.4f} ({of.low:+.4f} to {of.high:+.4f})")
    around_zero(difference, of.low, of.high, scale)


def _outcome(one: SpaceVersion, of: Verdict) -> str:
    verdict = "took over" if of.serves else "was not let serve"
    return f"{verdict}: {of.why}" + ("; serves now" if one.is_current else "")
