"""What a ranked slate of a user says: items with their reasons, and what it was made from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import UNSET, Raw, Struct, UnsetType

from recserve_client.contract import Popular, Shares, SlateItem, UsedBehaviour
from recserve_server_ext.recommend.explain import packed_slate
from recserve_server_ext.recommend.ranking import Plan, Ranked

_DECIMALS = 8


class PackedUserSlate(Struct, omit_defaults=True):
    """`UserSlate` around a slate that is packed already."""

    slate: Raw
    basis: str
    rules: str
    history: list[UsedBehaviour] | UnsetType = UNSET
    popular: list[Popular] | UnsetType = UNSET
    interests: list[float] | UnsetType = UNSET


def packed_ranked(plan: Plan, ranked: Ranked, rank_ns: int) -> Raw:
    """The slate of a plan, packed."""
    return Raw(packed_slate(os.urandom(16).hex(), plan.job, slate_items(plan, ranked), rank_ns, 0))


def slate_items(plan: Plan, ranked: Ranked) -> list[SlateItem]:
    """The items of a slate; contributions, popularity, the share of new items and boosts add up to the score."""
    view, request, n = plan.job.view, plan.job.request, len(ranked.rows)
    parts = np.round(ranked.parts, _DECIMALS)
    counts, popularity, new = (np.round(part, _DECIMALS) for part in (ranked.counts, ranked.popularity, ranked.new))
    of_history = parts.sum(axis=1)
    boosts = np.zeros((n, 0)) if ranked.chosen.shares is None else np.round(ranked.chosen.shares, _DECIMALS)
    scores = np.round(of_history + popularity + new + boosts.sum(axis=1), _DECIMALS)
    nothing: list[Any] = [UNSET] * n
    columns = zip(
        np.round(of_history - counts, _DECIMALS).tolist(),
        counts.tolist(),
        popularity.tolist(),
        new.tolist(),
        strict=True,
    )
    drawn = ranked.explored
    return list(
        map(
            SlateItem,
            view.ids(ranked.rows),
            scores.tolist(),
            parts.tolist() if request.explain and plan.behaviours else nothing,
            view.fields(request.fields, ranked.rows) if request.fields and n else nothing,
            nothing if ranked.chosen.shares is None else boosts.tolist(),
            [names or UNSET for names in ranked.chosen.rules or nothing],
            [Shares(*shares) for shares in columns],
            ranked.interest.tolist() if plan.interests > 1 and plan.behaviours else nothing,
            nothing if drawn is None else drawn.drawn.tolist(),
            nothing if drawn is None else drawn.propensity.tolist(),
        )
    )


def popular_reasons(plan: Plan, ranked: Ranked) -> list[Popular]:
    """How many users each item of a slate of what is popular had, and within which window."""
    popular = plan.popular
    assert popular is not None
    known = set(popular.rows.tolist())
    rows: Sequence[int] = ranked.rows.tolist()
    reasons = [popular.reason(row) if row in known else (0, None) for row in rows]
    return [Popular(name, *reason) for name, reason in zip(plan.job.view.ids(ranked.rows), reasons, strict=True)]
