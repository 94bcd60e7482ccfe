"""Blends: two systems added up, for all users alike or by how much is known of each."""

from __future__ import annotations

from typing import Final

import numpy as np

from recserve_benchmarks.evaluation.log import item_knn, popularity, recent_popularity
from recserve_benchmarks.evaluation.ranking import Known
from recserve_benchmarks.evaluation.system import Settings, System, scored
from recserve_benchmarks.evaluation.text import by_rules
from recserve_server_ext.common.arrays import Floats, Scores

_SHARES: Final = (0.05, 0.1, 0.2, 0.35, 0.5)
_PRIORS: Final = (1.0, 5.0, 20.0, 100.0, 500.0, 2000.0)


def standard(scores: Scores, known: Known) -> Floats:
    """[n, items] Scores less their mean, by their standard deviation, over the items a user has not seen.

    An item without a score has the least of the others; a user without any has 0 everywhere.
    """
    has_score = np.isfinite(scores) & ~known.seen
    count = np.maximum(has_score.sum(axis=1, keepdims=True), 1)
    values = np.where(has_score, scores, 0.0).astype(np.float64)
    mean = values.sum(axis=1, keepdims=True) / count
    least = np.where(has_score, scores, np.inf).min(axis=1, keepdims=True)
    deviation = np.where(has_score, values - mean, 0.0)
    spread = np.sqrt((deviation**2).sum(axis=1, keepdims=True) / count)
    filled = np.where(has_score, deviation, np.where(np.isfinite(least), least, 0.0) - mean)
    return np.asarray(filled / np.where(spread > 0, spread, 1.0))


def with_popularity(known: Known, settings: Settings) -> Scores:
    """(1 - b) z(text) + b z(ln(1 + popularity)), b = prior / (prior + length of the history): 1 for a cold user."""
    own = standard(by_rules(known, settings), known)
    return _to_popularity(own, popularity(known, {}), known, settings["prior"])


def log_and_text(known: Known, settings: Settings) -> Scores:
    """(1 - b) z(item-kNN) + b z(text), each with its own decay by position."""
    return scored(_log_and_text(known, settings), known)


def all_three(known: Known, settings: Settings) -> Scores:
    """Item-kNN and text as above, blended with recent popularity as text is with all of it."""
    own = standard(_log_and_text(known, settings).astype(np.float32), known)
    return _to_popularity(own, recent_popularity(known, settings), known, settings["prior"])


def _log_and_text(known: Known, settings: Settings) -> Floats:
    text = by_rules(known, {"half_life_events": settings["text_half_life_events"]})
    share = settings["share"]
    both: Floats = (1.0 - share) * standard(item_knn(known, settings), known) + share * standard(text, known)
    return both


def _to_popularity(own: Floats, counts: Scores, known: Known, prior: float) -> Scores:
    share = prior / (prior + known.lengths[:, None])
    return np.asarray((1.0 - share) * own + share * standard(np.log1p(counts), known), np.float32)


def _shares(half_life_events: float) -> tuple[Settings, ...]:
    return tuple({"share": share, "text_half_life_events": half_life_events} for share in _SHARES)


SYSTEMS: Final = (
    System(
        name="text and popularity",
        kind="blend",
        score=with_popularity,
        base="text, decay by position",
        grid=tuple({"prior": prior} for prior in _PRIORS),
    ),
    System(
        name="item-kNN and text",
        kind="blend",
        score=log_and_text,
        base="item-kNN, recency",
        grid=(*_shares(0.5), *_shares(4.0)),
    ),
    System(
        name="kNN, text, recent popularity",
        kind="blend",
        score=all_three,
        base="item-kNN and text",
        grid=tuple(
            {"prior": prior, "half_life_days": days} for prior in (0.01, 5.0, 50.0, 500.0) for days in (10.0, 30.0)
        ),
    ),
)
