"""Boosts: what an item's recency or popularity attribute adds to its score. Contributions + boosts = final score."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from recserve_client.contract import ErrorKind, RequestError, shown
from recserve_client.contract.slate_options import Boost, Recency, SlateOptions
from recserve_server_ext.attributes.columns import NUMBER, AttributeColumns, kinds_of
from recserve_server_ext.attributes.values import Source, candidate_numbers
from recserve_server_ext.common.arrays import Floats


def check_boosts(boosts: Sequence[Boost], known: Sequence[AttributeColumns]) -> None:
    """Refuse boosts on attributes that no item has, or that hold no numbers.

    Raises:
        RequestError: unknown_field or invalid_request.
    """
    for boost in boosts:
        kinds = kinds_of(boost.attribute, known)
        if kinds and NUMBER not in kinds:
            held = " or ".join(sorted(kinds))
            raise RequestError(
                ErrorKind.INVALID_REQUEST,
                f"attribute {shown(boost.attribute)} holds {held} values: a boost needs a number",
            )


def at_moment(options: SlateOptions, now: float | None = None) -> SlateOptions:
    """The options with a moment where a recency boost names no `now`: by default the server's, in whole seconds."""
    if not any(isinstance(boost, Recency) and boost.now is None for boost in options.boosts):
        return options
    now = float(math.floor(time.time())) if now is None else now
    boosts = [
        replace(boost, now=now) if isinstance(boost, Recency) and boost.now is None else boost
        for boost in options.boosts
    ]
    return replace(options, boosts=boosts)


def boost_shares(boosts: Sequence[Boost], sources: Sequence[Source]) -> Floats:
    """What each boost adds to the score of each candidate.

    Args:
        boosts: At least one; checked by `check_boosts`.
        sources: Attributes of the candidates.

    Returns:
        [users, n, boosts]; 0 where a candidate lacks the attribute.
    """
    shares = []
    for boost in boosts:
        values = candidate_numbers(boost.attribute, sources)
        if isinstance(boost, Recency):
            now = time.time() if boost.now is None else boost.now
            share = recency(values, now, boost.half_life)
        else:
            share = popularity(values, max(columns.column(boost.attribute).largest for columns, _ in sources))
        shares.append(boost.weight * np.nan_to_num(share, nan=0.0))
    return np.stack(shares, axis=-1)


def recency(values: Floats, now: float, half_life: float) -> Floats:
    """2^(-age / half_life), age = max(0, now - value); NaN where the value is."""
    return np.asarray(np.exp2(-np.maximum(now - values, 0.0) / half_life))


def popularity(values: Floats, largest: float) -> Floats:
    """log(1 + max(0, value)) / log(1 + largest), within [0, 1]; NaN where the value is, 0 where `largest` is 0."""
    return np.asarray(np.log1p(np.maximum(values, 0.0)) / (math.log1p(largest) or 1.0))
