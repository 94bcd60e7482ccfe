"""Means with standard errors, and paired comparisons of systems, over users who may be asked more than once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

from recserve_server_ext.common.arrays import Floats, Ints

_RESAMPLES: Final = 2000
_LEVEL: Final = 0.95
#: Sums of users that a bootstrap holds at once.
_BATCH: Final = 8_000_000


def mean_and_error(values: Floats, users: Ints) -> dict[str, float]:
    """Mean over the rows that are not NaN, and its standard error by user; empty without rows.

    The rows of a user go together (cluster-robust, as of a ratio of sums): se = sem(r) U / N, with U users, N rows and
    r_u the sum of a user's distances to the mean.

    Args:
        values: [rows].
        users: [rows] the user of each row.
    """
    kept = ~np.isnan(values)
    values, users = values[kept], users[kept]
    if not len(values):
        return {}
    mean = float(values.mean())
    _, place = np.unique(users, return_inverse=True)
    residuals = np.bincount(place, values - mean)
    if len(residuals) < 2:
        return {"mean": mean}
    return {"mean": mean, "se": float(stats.sem(residuals) * len(residuals) / len(values))}


def compared(values: Mapping[str, Floats], users: Ints, reference: str, seed: int = 0) -> dict[str, dict[str, Any]]:
    """The difference of each system to one of them: mean, 95% interval, and p by a paired bootstrap over users.

    `p_corrected` is p after Holm's correction for the number of systems.

    Args:
        values: [rows] by system; rows where the reference is NaN are left out.
        users: [rows] the user of each row: all rows of a user are drawn together.
        reference: System to compare with.
        seed: Of the draws.
    """
    kept = ~np.isnan(values[reference])
    _, place = np.unique(users[kept], return_inverse=True)
    counts = np.bincount(place).astype(np.float64)
    if len(counts) < 2:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for name, of_system in values.items():
        if name != reference:
            sums = np.bincount(place, (of_system - values[reference])[kept]).astype(np.float64)
            found[name] = _difference(sums, counts, seed)
    if found:
        corrected = multipletests([of["p"] for of in found.values()], method="holm")[1]
        for of, p in zip(found.values(), corrected.tolist(), strict=True):
            of["p_corrected"] = p
    return found


def _difference(sums: Floats, counts: Floats, seed: int) -> dict[str, Any]:
    difference = float(sums.sum() / counts.sum())
    if not sums.any():
        return {"difference": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}
    result = stats.bootstrap(
        (sums, counts),
        lambda s, n, axis: s.sum(axis=axis) / n.sum(axis=axis),
        n_resamples=_RESAMPLES,
        batch=max(1, _BATCH // len(sums)),
        confidence_level=_LEVEL,
        paired=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    drawn = result.bootstrap_distribution
    # One more draw stands for the observed difference: a p of 0 is never known.
    p = 2 * (min((drawn <= 0).sum(), (drawn >= 0).sum()) + 1) / (len(drawn) + 1)
    interval = result.confidence_interval
    return {"difference": difference, "low": float(interval.low), "high": float(interval.high), "p": float(min(p, 1.0))}
