"""One accepted request to `recommend` on its way to an answer, and what its parts ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from msgspec import UNSET, Struct, UnsetType
from numpy.typing import NDArray

from recserve_client.contract import ErrorKind, RecommendRequest, RequestError
from recserve_server_ext.attributes.view import Allowed, ViewFilters
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.recommend.paging import Part
from recserve_server_ext.recommend.requests import History
from recserve_server_ext.retrieval.search import Wanted
from recserve_server_ext.slate.maker import Wish
from recserve_server_ext.strategies.text import UserVectors


class Job(Struct):
    """One accepted request on its way to an answer; times are in nanoseconds.

    Attributes:
        request: As it was sent.
        view: The catalogue it is answered from.
        history: Its behaviours as far as they are known.
        filters: Of the view.
        allowed: Items that match its filter; none = it has none.
        rules: Items that its bury rules and quotas name.
        banned: Rows that must not be in the slate, besides those that the request names; none = none.
        part: Where its cursor points to; none = it has none.
        cursor: For the next page.
        waited_ns: Time spent waiting.
        resolve_ns: Time of the batch's decoding and look-ups.
        encode_ns: Time of the batch's encoding.
    """

    request: RecommendRequest
    view: View
    history: History
    filters: ViewFilters
    allowed: Allowed | None = None
    rules: Sequence[Allowed] = ()
    banned: NDArray[np.int64] | None = None
    part: Part | None = None
    cursor: str | UnsetType = UNSET
    waited_ns: int = 0
    resolve_ns: int = 0
    encode_ns: int = 0

    @property
    def encoder(self) -> str:
        """Runtime fingerprint of the encoder that its texts go to."""
        return self.view.encoder

    @property
    def needs_encoder(self) -> bool:
        """Whether texts of the history must be encoded first."""
        return bool(self.history.missing)


def vectors_of(view: View, histories: list[History]) -> Vectors:
    """Vectors of equally long histories, [users, behaviours, dim]; zeros where an item was skipped."""
    rows = np.array([history.rows for history in histories])
    vectors = view.vectors(rows)
    if rows.min() < 0:
        vectors[rows < 0] = 0.0
        for line, history in zip(vectors, histories, strict=True):
            for position, vector in history.vectors.items():
                line[position] = vector
    return vectors


def wanted_of(job: Job) -> Wanted:
    """How many items, and which ones may be among them."""
    request, row_of = job.request, job.view.row_of
    banned = job.history.rows if request.exclude_history else np.empty(0, np.int64)
    if request.exclude:
        banned = np.append(banned, [row_of.get(name, -1) for name in request.exclude])
    if job.banned is not None:
        banned = np.append(banned, job.banned)
    return Wanted(request.k, banned[banned >= 0], request.ef, job.allowed)


def wish_of(job: Job) -> Wish | None:
    """The slate that a job wants; none = the best items by score."""
    options = job.request.slate
    return None if options is None else Wish(options, wanted_of(job), job.filters, job.rules)


def missing_texts(jobs: Sequence[Job]) -> list[str]:
    """The distinct texts that these histories still lack."""
    return list(dict.fromkeys(text for job in jobs for text in job.history.missing.values()))


def fill_texts(jobs: Sequence[Job], vector_of: Mapping[str, Vectors]) -> None:
    """Put the vectors of texts where these were missing."""
    for job in jobs:
        history = job.history
        for position, text in list(history.missing.items()):
            if (vector := vector_of.get(text)) is not None:
                history.vectors[position] = vector
                del history.missing[position]


def cancelled(users: UserVectors, number: int) -> RequestError:
    """The refusal of a user whose behaviours add up to nothing."""
    return RequestError(
        ErrorKind.VECTORS_CANCEL,
        f"the weighted behaviours add up to a vector of length {users.norms[number]:.2g}, with weights of "
        f"{users.mass[number]:.6g} in all: no direction is left",
    )
