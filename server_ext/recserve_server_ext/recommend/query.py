"""One accepted request on its way to a slate, and the query that its strategy gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from msgspec import UNSET, UnsetType

from recserve_client.contract import AssignedVariant, RecommendRequest, RequestError
from recserve_client.contract.slate_options import SlateOptions
from recserve_server_ext.attributes.boosts import at_moment, check_boosts
from recserve_server_ext.attributes.view import Allowed
from recserve_server_ext.common.arrays import Rows
from recserve_server_ext.recommend.paging import Part
from recserve_server_ext.recommend.profile import Behaviours, Profiled
from recserve_server_ext.retrieval.search import CandidateSpec
from recserve_server_ext.slate.maker import check_options
from recserve_server_ext.strategies.base import Data, Profile, Query
from recserve_server_ext.strategies.registry import Chosen


@dataclass(slots=True, eq=False)
class Job:
    """One accepted request on its way to an answer; times are in nanoseconds.

    Attributes:
        request: As it was sent, with the options of its variants.
        chosen: Its strategy with its options.
        data: What it is answered from.
        pseudonym: Of the user; `None` for a request with a history.
        keys: Fingerprint of the ring that the pseudonym was made by.
        variants: Of the experiments that the user takes part in.
        history_rules: Version of the rules that weigh the user's interactions.
        query: What is asked of the strategy; `None` until the user is looked up.
        behaviours: What the answer says of the user's behaviours.
        options: How the slate is made, with the server's clock where a boost names no moment.
        rules: Items that its bury rules and quotas name.
        error: Why it is refused; `None` while it is not.
        part: Where its cursor points to; `None` without one.
        cursor: For the next page.
        waited_ns: Time spent waiting.
        resolve_ns: Time of the batch's decoding and look-ups.
        encode_ns: Time of the batch's encoding.
    """

    request: RecommendRequest
    chosen: Chosen
    data: Data
    pseudonym: str | None = None
    keys: str = ""
    variants: list[AssignedVariant] = field(default_factory=list)
    history_rules: str | UnsetType = UNSET
    query: Query | None = None
    behaviours: Behaviours | None = None
    options: SlateOptions | None = None
    rules: Sequence[Allowed] = ()
    error: RequestError | None = None
    part: Part | None = None
    cursor: str | UnsetType = UNSET
    waited_ns: int = 0
    resolve_ns: int = 0
    encode_ns: int = 0

    @property
    def profile(self) -> Profile:
        """Of the user; only where there is a query."""
        assert self.query is not None
        return self.query.profile

    @property
    def wanted(self) -> int:
        """Items of the ranking: the slate, and after it the candidates to explore."""
        explore = self.request.explore
        return self.request.k + (explore.pool if explore is not None else 0)

    @property
    def is_plain(self) -> bool:
        """Whether the slate is the best candidates as their strategy ranks them."""
        request = self.request
        return (
            self.options is None
            and request.explore is None
            and request.new_items is None
            and request.interests == 1
            and self.chosen.strategy.is_ranked
        )

    @property
    def falls_back(self) -> bool:
        """Whether it is answered where nothing usable is known of the user."""
        on_cold = self.request.on_cold
        return on_cold == "fallback" or (on_cold is None and self.pseudonym is not None)

    @property
    def waits_for_texts(self) -> bool:
        """Whether texts of the profile must be encoded before it can be answered."""
        if self.query is None or self.error is not None or not self.query.profile.missing:
            return False
        return self.chosen.strategy.needs_texts or self.request.interests > 1


def ask(job: Job, profiled: Profiled) -> None:
    """Give a job its query.

    Raises:
        RequestError: unknown_field or invalid_request: an attribute that no item has, or that cannot be used so.
    """
    request, data = job.request, job.data
    allowed = None if request.where is None else data.filters.allowed(request.where)
    boosts = None
    if request.slate is not None:
        job.options = at_moment(request.slate)
        job.rules = check_options(job.options, data.filters)
        boosts = data.filters.boosts(job.options.boosts)
    if request.new_items is not None:
        check_boosts([request.new_items], data.filters.known)
    banned = profiled.banned
    if request.exclude:
        get = data.view.row_of.get
        excluded = np.array([get(name, -1) for name in request.exclude], np.int64)
        banned = np.append(banned, excluded[excluded >= 0])
    job.behaviours = profiled.behaviours
    spec = CandidateSpec(job.wanted, banned, request.ef, allowed, boosts)
    job.query = Query(profiled.profile, data, spec, job.chosen.options, request.context)


def pinned_rows(job: Job) -> Rows:
    """[pins] the row of each pinned item; -1 where it may not be placed."""
    if job.options is None or not job.options.pins:
        return np.empty(0, np.int64)
    assert job.query is not None
    view, spec = job.data.view, job.query.spec
    rows = np.array([view.row_of.get(pin.item, -1) for pin in job.options.pins], np.int64)
    usable = view.available if spec.allowed is None else spec.allowed.mask
    return np.where((rows >= 0) & usable[rows] & ~np.isin(rows, spec.banned), rows, -1)
