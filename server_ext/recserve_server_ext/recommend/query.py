"""Builds the query of a job, and what the request asks for beside it: pinned items, boosts and new items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from recserve_client.contract import RequestError
from recserve_server_ext.attributes.boosts import at_moment, boost_shares, check_boosts
from recserve_server_ext.common.arrays import Floats, Rows
from recserve_server_ext.config.server import Limits
from recserve_server_ext.recommend.job import Job
from recserve_server_ext.recommend.profile import ResolvedProfile, profile_of_history
from recserve_server_ext.recommend.requests import for_encoder
from recserve_server_ext.retrieval.search import CandidateSpec
from recserve_server_ext.slate.maker import check_options
from recserve_server_ext.strategies.base import Query


def build_history_queries(jobs: Sequence[Job], limits: Limits) -> None:
    """Give jobs of one batch, whose requests bring histories, their queries or errors.

    The rows of all behaviours are looked up at once.
    """
    if not jobs:
        return
    view, start = jobs[0].data.view, 0
    rows = view.row_of.rows([behaviour.item or "" for job in jobs for behaviour in job.request.history])
    for job in jobs:
        end = start + len(job.request.history)
        try:
            request = for_encoder(job.request, view.encoder)
            build_query(job, profile_of_history(request, rows[start:end], limits, view.text.dim))
        except RequestError as error:
            job.error = error
        start = end


def build_query(job: Job, resolved: ResolvedProfile) -> None:
    """Give a job its query and slate options.

    Raises:
        RequestError: unknown_field or invalid_request: an attribute does not exist, or has the wrong kind of values.
    """
    request, data = job.request, job.data
    allowed = None if request.where is None else data.filters.allowed(request.where)
    boosts = None
    if request.slate is not None:
        job.options = at_moment(request.slate, request.now)
        job.rules = check_options(job.options, data.filters)
        boosts = data.filters.boosts(job.options.boosts)
    if request.new_items is not None:
        check_boosts([request.new_items], data.filters.known)
    banned = resolved.banned
    if request.exclude:
        excluded = data.view.row_of.rows(request.exclude)
        banned = np.append(banned, excluded[excluded >= 0])
    job.history = resolved.history
    spec = CandidateSpec(job.wanted, banned, request.ef, allowed, boosts)
    job.query = Query(resolved.profile, data, spec, job.configured.options, request.context, request.explain)


def pinned_rows(job: Job) -> Rows:
    """[pins] row of each pinned item; -1 where it may not be placed."""
    if job.options is None or not job.options.pins:
        return np.empty(0, np.int64)
    assert job.query is not None
    view, spec = job.data.view, job.query.spec
    rows = view.row_of.rows([pin.item for pin in job.options.pins])
    usable = view.available if spec.allowed is None else spec.allowed.mask
    return np.where((rows >= 0) & usable[rows] & ~np.isin(rows, spec.banned), rows, -1)


def boosts_of(job: Job, rows: Rows) -> Floats | None:
    """[rows, boosts] what each boost adds to the scores, `new_items` last; `None` without boosts."""
    boosts = [] if job.options is None else list(job.options.boosts)
    if job.request.new_items is not None:
        new_items = job.request.new_items
        boosts.append(replace(new_items, now=job.request.now) if new_items.now is None else new_items)
    if not boosts:
        return None
    if not len(rows):
        return np.zeros((0, len(boosts)))
    shares: Floats = boost_shares(boosts, job.data.filters.sources(rows[None]))[0]
    return shares
