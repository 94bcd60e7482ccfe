"""From a request by user id and what is recorded of the user to what makes the slate."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

import numpy as np

from recserve_client.contract import ErrorKind, RecommendForRequest, RequestError
from recserve_server_ext.attributes.boosts import check_boosts
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.config.server import Limits
from recserve_server_ext.history.user_histories import UserPast
from recserve_server_ext.recommend.pipeline import Recommender
from recserve_server_ext.recommend.profile import Made, made_of, ordinary
from recserve_server_ext.recommend.query import Job
from recserve_server_ext.recommend.ranking import Plan
from recserve_server_ext.recommend.requests import History, check_shape
from recserve_server_ext.strategies.counts_view import CountsView

_NO_WEIGHTS: Final = np.empty(0)
_NO_ROWS: Final = np.empty(0, np.int64)


class Planned(NamedTuple):
    """What makes a slate.

    Attributes:
        job: The ordinary request in the place of the one by user id.
        made: Its history; none = there is none, and what is popular is recommended.
        plan: For the ranker of users; none = the ordinary recommender makes the slate.
    """

    job: Job
    made: Made | None
    plan: Plan | None


def planned(
    request: RecommendForRequest,
    past: UserPast,
    counts: CountsView,
    recommender: Recommender,
    limits: Limits,
    now_us: int,
    again: Collection[str] = (),
) -> Planned:
    """What makes the slate of a user.

    Args:
        request: By user id.
        past: What is recorded of the user.
        counts: Of the log, over the view that the recommender answers from.
        recommender: For ordinary requests.
        limits: Of requests.
        now_us: When it is asked for, in microseconds since 1970.
        again: Seen items that may come again.

    Raises:
        RequestError: It is refused.
    """
    wanted = ordinary(request)
    check_shape(wanted, limits, counts.view.field_names)
    made = made_of(request, past, counts.view, limits, again)
    job = recommender.job(wanted, lambda: made.history)
    job.banned = made.banned
    if request.new_items is not None:
        check_boosts([request.new_items], job.filters.known)
    if not made.is_usable:
        if request.on_cold == "error":
            raise RequestError(ErrorKind.EMPTY_HISTORY, "nothing usable is recorded of the user")
        return Planned(job, None, plan_of(request, job, None, counts))
    is_ordinary = request.strategy == "text" and request.interests == 1
    if is_ordinary and request.explore is None and request.new_items is None:
        return Planned(job, made, None)
    idle_s = 0.0 if request.session else max(now_us - past.newest_us, 0) / MICROSECONDS
    return Planned(job, made, plan_of(request, job, made, counts, idle_s))


def plan_of(request: RecommendForRequest, job: Job, made: Made | None, counts: CountsView, idle_s: float = 0.0) -> Plan:
    """How the ranker makes a slate from a history, or, where there is none, from what is popular."""
    if made is None:
        job.history = History(_NO_WEIGHTS, _NO_ROWS, {}, {}, [])
    return Plan(
        job=job,
        counted=_NO_WEIGHTS if made is None else made.counted,
        behaviours=0 if made is None else int(np.count_nonzero(made.history.weights)),
        strategy=request.strategy,
        interests=request.interests,
        popular=counts.popular(request.context, request.popular_window),
        explore=request.explore,
        new_items=request.new_items,
        idle_s=idle_s,
    )
