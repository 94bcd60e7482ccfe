"""What every strategy is compared with: popularity, and the plain mean of text vectors."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy import sparse

from recserve_benchmarks.evaluation.ranking import NEVER, Known
from recserve_benchmarks.evaluation.system import Settings, System
from recserve_server_ext.common.arrays import Scores


def popularity(known: Known, _: Settings) -> Scores:
    """How many users turned to each item, the same for everybody."""
    counts = known.popularity.astype(np.float32)
    return np.tile(counts, (len(known.part.users), 1))


def plain_mean(known: Known, _: Settings) -> Scores:
    """cos(u, v), u = the plain mean of the vectors of a user's items; items without a text have no score."""
    shape = (len(known.part.users), len(known.vectors))
    places = (known.histories.user, known.histories.subject)
    histories = sparse.csr_array((np.ones(len(places[0]), np.float32), places), shape)
    users = histories @ known.vectors
    lengths = np.linalg.norm(users, axis=1, keepdims=True)
    scores: Scores = (users / np.maximum(lengths, np.float32(1e-30))) @ known.vectors.T
    scores[lengths[:, 0] == 0] = NEVER
    scores[:, ~known.vectors.any(axis=1)] = NEVER
    return scores


SYSTEMS: Final = (
    System(name="popularity", kind="baseline", score=popularity),
    System(name="mean of texts", kind="baseline", score=plain_mean),
)
