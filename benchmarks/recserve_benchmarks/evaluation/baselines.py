"""What every strategy is compared with: popularity, popularity predicted from text, and the mean of text vectors."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy import sparse

from recserve_benchmarks.evaluation.ranking import NEVER, Known
from recserve_benchmarks.evaluation.system import Scorer, System, by_scores
from recserve_server_ext.common.arrays import Floats, Ints, Scores, Vectors
from recserve_server_ext.common.units import DAY_S, MICROSECONDS

_RECENT_US: Final = round(7 * DAY_S * MICROSECONDS)
#: Strength of the regularisation of the regression on text vectors.
_RIDGE: Final = 3.0


def popularity(known: Known) -> Scorer:
    """How many users turned to each item, the same for everybody."""
    return _for_everybody(known.popularity)


def recent_popularity(known: Known) -> Scorer:
    """Interactions of the last seven days before the question; of equal items, the more popular first."""
    columns = known.columns
    now_us = known.part.asked_us or int(columns.time_us.max())
    recent = columns.subject[columns.time_us >= now_us - _RECENT_US]
    counts = np.bincount(recent, minlength=known.items)
    return _for_everybody(counts + known.popularity / (known.popularity.max() + 1.0))


def popularity_from_text(known: Known) -> Scorer:
    """Popularity predicted by ridge regression of ln(1 + users) on text vectors: the control for cold items."""
    return _for_everybody(predicted_popularity(known.vectors, known.popularity))


def predicted_popularity(vectors: Vectors, users: Floats) -> Floats:
    """[items] ln(1 + users) as the text of an item tells it; -inf without a text.

    Args:
        vectors: [items, dim]; zeros without a text.
        users: [items] number of users of each item; items without any are not learned from.
    """
    has_text = vectors.any(axis=1)
    fitted = has_text & (users > 0)
    found = np.full(len(vectors), -np.inf)
    if fitted.any():
        x, y = vectors[fitted].astype(np.float64), np.log1p(users[fitted])
        centre = x.mean(axis=0)
        x -= centre
        slope = np.linalg.solve(x.T @ x + _RIDGE * np.eye(x.shape[1]), x.T @ (y - y.mean()))
        found[has_text] = (vectors[has_text] - centre) @ slope + y.mean()
    return found


def plain_mean(known: Known) -> Scorer:
    """cos(u, v), u = the plain mean of the vectors of a user's items; items without a text have no score."""
    shape = (len(known.part.users), known.items)
    places = (known.histories.user, known.histories.subject)
    histories = sparse.csr_array((np.ones(len(places[0]), np.float32), places), shape)
    has_no_text = ~known.vectors.any(axis=1)

    def score(users: Ints) -> Scores:
        sums = histories[users] @ known.vectors
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        scores: Scores = (sums / np.maximum(lengths, np.float32(1e-30))) @ known.vectors.T
        scores[lengths[:, 0] == 0] = NEVER
        scores[:, has_no_text] = NEVER
        return scores

    return score


def _for_everybody(values: Floats) -> Scorer:
    line = values.astype(np.float32)
    return lambda users: np.tile(line, (len(users), 1))


SYSTEMS: Final = (
    System(name="popularity", kind="baseline", fit=by_scores(popularity), is_personal=False),
    System(name="recent popularity", kind="baseline", fit=by_scores(recent_popularity), is_personal=False),
    System(name="popularity from text", kind="baseline", fit=by_scores(popularity_from_text), is_personal=False),
    System(name="mean of texts", kind="baseline", fit=by_scores(plain_mean)),
)
