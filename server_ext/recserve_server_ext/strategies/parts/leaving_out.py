"""Histories without one of their newest behaviours: what a behaviour adds to the scores of a model that is no sum."""

from __future__ import annotations

from typing import Annotated, Final

import numpy as np
from msgspec import Meta
from msgspec.structs import replace

from recserve_server_ext.common.arrays import Ints
from recserve_server_ext.strategies.base import Options, Profile, Query

#: A half-life of no decay.
_ENDLESS: Final = 1e12


class LeavingOutOptions(Options, frozen=True):
    """Options of strategies that tell the share of behaviours by leaving them out.

    Attributes:
        reasons: Newest behaviours whose share in the scores is told, where the request asks to explain: the model
            runs once more for each, without it. 0 for none.
    """

    reasons: Annotated[int, Meta(ge=0, le=64)] = 0


def in_order(profile: Profile) -> Ints:
    """Positions of the behaviours that count, oldest first: logged ones, then those of the session.

    A history that the request brought is in its own order.
    """
    weighs = profile.recency_weights(_ENDLESS) > 0
    if profile.session_weights is None or profile.newer is None:
        return np.flatnonzero(weighs)
    in_session = profile.session_weights > 0
    logged = np.flatnonzero(weighs & ~in_session)
    logged = logged[np.argsort(-profile.newer[logged], kind="stable")]
    return np.concatenate([logged, np.flatnonzero(weighs & in_session)])


def left_out(query: Query, order: Ints, reasons: int) -> Ints:
    """Those of some behaviours (oldest first) whose share is told, the newest first.

    A single behaviour cannot be left out: nothing would be left.
    """
    most = min(reasons, len(order)) if query.explain and len(order) > 1 else 0
    return np.asarray(order[::-1][:most])


def without(query: Query, position: int) -> Query:
    """The query without one behaviour, with a cache of its own."""
    profile = query.profile
    kept = np.ones(len(profile.weights), np.bool_) if profile.in_cluster is None else profile.in_cluster.copy()
    kept[position] = False
    newer = profile.newer
    if newer is not None and profile.session_weights is not None and not profile.session_weights[position]:
        newer = newer - (newer > newer[position])
    less = replace(profile.restricted_to(kept), count=profile.count - 1, newer=newer)
    return Query(less, query.data, query.spec, query.options, query.context)
