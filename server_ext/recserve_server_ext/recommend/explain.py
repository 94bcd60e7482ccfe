"""Chosen items of a batch -> packed slates: scores, contributions, fields and what the answer says of itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from recserve_client.contract import RecommendRequest, RecommendTimings, Slate, SlateItem, pack
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.recommend.query import Job
from recserve_server_ext.slate.maker import Chosen
from recserve_server_ext.strategies.text import UserVectors, contributions

#: Decimals of scores and contributions: the sum of 1,000 of them is off by less than 1e-5 from rounding.
_DECIMALS = 8


class UserGroup(NamedTuple):
    """Jobs with histories of the same length.

    Attributes:
        numbers: Their places in the batch.
        behaviours: [users, behaviours, dim].
        weights: [users, behaviours].
        users: Their user vectors.
    """

    numbers: list[int]
    behaviours: Vectors
    weights: NDArray[np.float64]
    users: UserVectors


def explained(
    view: View, group: UserGroup, jobs: Sequence[Job], chosen: Mapping[int, Chosen]
) -> Iterator[tuple[int, list[SlateItem]]]:
    """The items of each slate of a group with scores, contributions and fields, best first."""
    places_of: dict[int, list[int]] = defaultdict(list)
    for place, number in enumerate(group.numbers):
        if number in chosen:
            places_of[len(chosen[number].rows)].append(place)
    for places in places_of.values():
        numbers = [group.numbers[place] for place in places]
        found = np.array([chosen[number].rows for number in numbers])
        # A copy of the histories only where the group has to be cut.
        part = slice(None) if len(places) == len(group.numbers) else places
        parts = contributions(group.behaviours[part], group.weights[part], group.users.norms[part], view.vectors(found))
        parts = np.round(parts, _DECIMALS)
        scores = np.round(parts.sum(axis=2), _DECIMALS)
        order = np.argsort(-scores, axis=1, kind="stable")
        for line, number in enumerate(numbers):
            if jobs[number].request.slate is not None or jobs[number].part is not None:
                order[line] = np.arange(order.shape[1])
        users = np.arange(len(numbers))[:, None]
        found, scores, parts = found[users, order], scores[users, order], parts[users, order]
        for number, *columns in zip(numbers, found, scores.tolist(), parts, strict=True):
            yield number, _items(view, jobs[number].request, chosen[number], *columns)


def _items(
    view: View,
    request: RecommendRequest,
    chosen: Chosen,
    rows: NDArray[np.int64],
    scores: list[float],
    parts: NDArray[np.float64],
) -> list[SlateItem]:
    nothing = [UNSET] * len(rows)
    shares: Sequence[list[float] | UnsetType] = parts.tolist() if request.explain else nothing
    fields: Sequence[dict[str, Any] | UnsetType] = view.fields(request.fields, rows) if request.fields else nothing
    if chosen.shares is None and chosen.rules is None:
        return list(map(SlateItem, view.ids(rows), scores, shares, fields))
    boosts: Sequence[list[float] | UnsetType] = nothing
    if chosen.shares is not None:
        added = np.round(chosen.shares, _DECIMALS)
        boosts, scores = added.tolist(), np.round(scores + added.sum(axis=1), _DECIMALS).tolist()
    rules = [names or UNSET for names in chosen.rules or nothing]
    return list(map(SlateItem, view.ids(rows), scores, shares, fields, boosts, rules))


def _count(job: Job) -> int:
    view = job.view
    return len(view.available) - view.unavailable if job.allowed is None else job.allowed.count


def packed_slate(recommendation_id: str, job: Job, items: list[SlateItem], search_ns: int, explain_ns: int) -> bytes:
    """The packed answer to a job."""
    manifest = job.view.snapshot.manifest
    return pack(
        Slate(
            recommendation_id=recommendation_id,
            items=items,
            unknown=job.history.unknown,
            revision=job.view.revision if job.part is None else job.part.ranking.revision,
            encoder=job.view.encoder,
            timings=RecommendTimings(
                queue_us=job.waited_ns // 1000,
                resolve_us=job.resolve_ns // 1000,
                encode_us=job.encode_ns // 1000,
                search_us=search_ns // 1000,
                explain_us=explain_ns // 1000,
                engine=manifest.engine.name,
            ),
            count=_count(job) if job.request.count else UNSET,
            cursor=job.cursor,
        )
    )
