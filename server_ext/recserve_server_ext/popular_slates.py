"""Slates of what is popular, each item with its reason."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import UNSET, UnsetType

from recserve_client.contract import (
    ErrorKind,
    Popular,
    RecommendForRequest,
    RecommendTimings,
    RequestError,
    Slate,
    SlateItem,
    UserSlate,
    nearest,
    shown,
)
from recserve_server_ext.catalogue_view import View
from recserve_server_ext.popularity import Ranking

_DECIMALS = 8


def popular_slate(
    request: RecommendForRequest,
    view: View,
    ranking: Ranking,
    banned: set[str],
    *,
    rules: str,
    window_s: float,
    timings: RecommendTimings,
) -> UserSlate:
    """The first items of the ranking that may be recommended.

    Args:
        request: What is asked for.
        view: The catalogue.
        ranking: What is popular.
        banned: Items that must not be in the slate.
        rules: Version of the rules.
        window_s: Of the ranking.
        timings: Where the time went.

    Raises:
        RequestError: unknown_field.
    """
    for name in request.fields:
        if name not in view.field_names:
            known = nearest(name, view.field_names)
            raise RequestError(ErrorKind.UNKNOWN_FIELD, f"the catalogue has no field {shown(name)}{known}")
    chosen: list[Popular] = []
    rows: list[int] = []
    for item, users in zip(ranking.items, ranking.users, strict=True):
        row = view.row_of.get(item, -1)
        if row >= 0 and view.available[row] and item not in banned:
            chosen.append(Popular(item, users, window_s))
            rows.append(row)
            if len(rows) == request.k:
                break
    nothing = [UNSET] * len(rows)
    fields: Sequence[dict[str, Any] | UnsetType] = nothing
    if request.fields and rows:
        fields = view.fields(request.fields, np.array(rows, np.int64))
    items = [
        SlateItem(reason.item, round(reason.users / ranking.active, _DECIMALS), UNSET, found)
        for reason, found in zip(chosen, fields, strict=True)
    ]
    slate = Slate(os.urandom(16).hex(), items, [], view.revision, view.encoder, timings)
    return UserSlate(slate, "popularity", rules, popular=chosen)
