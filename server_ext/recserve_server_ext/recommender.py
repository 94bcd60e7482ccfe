"""Packed recommend requests -> packed slates, for a batch of users. No Triton here."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from msgspec import UNSET, Struct, UnsetType
from numpy.typing import NDArray

from recserve_client.contract import (
    ErrorKind,
    RecommendRequest,
    RecommendTimings,
    RequestError,
    Slate,
    SlateItem,
    Unpacker,
    pack,
)
from recserve_server_ext.catalogue_view import View
from recserve_server_ext.history import History, check_request, check_size
from recserve_server_ext.packed_model import Answer, Encode
from recserve_server_ext.retrieval import Wanted, search
from recserve_server_ext.settings import Limits
from recserve_server_ext.text_cache import TextCache
from recserve_server_ext.user_vectors import UserVectors, contributions, user_vectors

Vectors = NDArray[np.float32]
#: Decimals of scores and contributions: the sum of 1,000 of them is off by less than 1e-5 from rounding.
_DECIMALS = 8


class Job(Struct):
    """One accepted request on its way to an answer; times are in nanoseconds.

    Attributes:
        request: As it was sent.
        view: The catalogue it is answered from.
        history: Its behaviours as far as they are known.
        waited_ns: Time spent waiting.
        resolve_ns: Time of the batch's decoding and look-ups.
        encode_ns: Time of the batch's encoding.
    """

    request: RecommendRequest
    view: View
    history: History
    waited_ns: int = 0
    resolve_ns: int = 0
    encode_ns: int = 0

    @property
    def needs_encoder(self) -> bool:
        """Whether texts of the history must be encoded first."""
        return bool(self.history.missing)


class _Group(NamedTuple):
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


class Recommender:
    """Answers requests from the catalogue as it is when their batch begins.

    The way of a request: `begin` (once a batch), `accept` (decode, check), `look_up`, `encode` when texts are missing,
    `answer`.
    """

    def __init__(self, newest: Callable[[], View], cache: TextCache, limits: Limits) -> None:
        """
        Args:
            newest: The catalogue as it is now; see `recserve_server_ext.live_catalogue.LiveCatalogue.view`.
            cache: Vectors of texts.
            limits: The largest request.
        """
        self._newest = newest
        self._view = newest()
        self._cache = cache
        self._limits = limits
        self._unpack = Unpacker(RecommendRequest)

    def begin(self) -> None:
        """Look whether the catalogue has changed."""
        self._view = self._newest()

    def accept(self, raw: bytes) -> Job:
        """Decode and check a request, and look up its items.

        Raises:
            RequestError: It is refused.
        """
        check_size(raw, self._limits)
        request = self._unpack(raw)
        view = self._view
        check_request(request, self._limits, view.field_names)
        _check_revision(request, view)
        return Job(request, view, History(request, view.row_of, self._limits, view.dim))

    def look_up(self, jobs: Sequence[Job]) -> None:
        """Fill in the texts that were encoded before."""
        texts = _missing(jobs)
        if texts:
            vectors, found = self._cache.get(texts)
            _fill(jobs, {text: vectors[n] for n, text in enumerate(texts) if found[n]})

    def encode(self, jobs: Sequence[Job], encode: Encode) -> None:
        """Encode the texts that are missing, each distinct one once for all these requests.

        Raises:
            RequestError: unavailable: the encoder did not answer.
        """
        start_ns = time.monotonic_ns()
        texts = _missing(jobs)
        vectors = encode(texts)
        self._cache.put(texts, vectors)
        _fill(jobs, dict(zip(texts, vectors, strict=True)))
        for job in jobs:
            job.encode_ns = time.monotonic_ns() - start_ns

    def answer(self, jobs: Sequence[Job]) -> list[Answer]:
        """Slates of requests with nothing missing, or the error of each that has none."""
        start_ns = time.monotonic_ns()
        # The jobs of a batch were accepted together.
        view = jobs[0].view
        answers: list[Answer] = [b""] * len(jobs)
        groups = _group(view, jobs)
        vectors = np.empty((len(jobs), view.dim), np.float32)
        for group in groups:
            vectors[group.numbers] = group.users.vectors
            for place in np.flatnonzero(group.users.cancelled).tolist():
                answers[group.numbers[place]] = _cancelled(group.users, place)
        live = [number for number, answer in enumerate(answers) if not answer]
        queries = vectors if len(live) == len(jobs) else vectors[live]
        found = search(view, queries, [_wanted(jobs[number]) for number in live])
        rows = dict(zip(live, found, strict=True))
        search_ns = time.monotonic_ns() - start_ns
        slates = {number: items for group in groups for number, items in _explain(view, group, jobs, rows)}
        explain_ns = time.monotonic_ns() - start_ns - search_ns
        random = os.urandom(16 * len(jobs)).hex()
        for number, items in slates.items():
            name = random[32 * number : 32 * number + 32]
            answers[number] = _pack(name, jobs[number], items, search_ns, explain_ns)
        return answers


def _group(view: View, jobs: Sequence[Job]) -> list[_Group]:
    """The jobs by length of history, so that each group is computed as one array."""
    numbers_of: dict[int, list[int]] = defaultdict(list)
    for number, job in enumerate(jobs):
        numbers_of[len(job.history.rows)].append(number)
    groups = []
    for numbers in numbers_of.values():
        members = [jobs[number].history for number in numbers]
        behaviours = _vectors_of(view, members)
        weights = np.array([history.weights for history in members])
        groups.append(_Group(numbers, behaviours, weights, user_vectors(behaviours, weights)))
    return groups


def _vectors_of(view: View, histories: list[History]) -> Vectors:
    """Vectors of equally long histories, [users, behaviours, dim]; zeros where an item was skipped."""
    rows = np.array([history.rows for history in histories])
    vectors = view.vectors(rows)
    if rows.min() < 0:
        vectors[rows < 0] = 0.0
        for line, history in zip(vectors, histories, strict=True):
            for position, vector in history.vectors.items():
                line[position] = vector
    return vectors


def _explain(
    view: View, group: _Group, jobs: Sequence[Job], rows: dict[int, NDArray[np.int64]]
) -> Iterator[tuple[int, list[SlateItem]]]:
    """The items of each slate of a group with scores, contributions and fields, best first."""
    places_of: dict[int, list[int]] = defaultdict(list)
    for place, number in enumerate(group.numbers):
        if number in rows:
            places_of[len(rows[number])].append(place)
    for places in places_of.values():
        numbers = [group.numbers[place] for place in places]
        found = np.array([rows[number] for number in numbers])
        # A copy of the histories only where the group has to be cut.
        part = slice(None) if len(places) == len(group.numbers) else places
        parts = contributions(group.behaviours[part], group.weights[part], group.users.norms[part], view.vectors(found))
        parts = np.round(parts, _DECIMALS)
        scores = np.round(parts.sum(axis=2), _DECIMALS)
        order = np.argsort(-scores, axis=1, kind="stable")
        users = np.arange(len(numbers))[:, None]
        found, scores, parts = found[users, order], scores[users, order], parts[users, order]
        for number, *columns in zip(numbers, found, scores.tolist(), parts, strict=True):
            yield number, _items(view, jobs[number].request, *columns)


def _items(
    view: View, request: RecommendRequest, rows: NDArray[np.int64], scores: list[float], parts: NDArray[np.float64]
) -> list[SlateItem]:
    nothing = [UNSET] * len(rows)
    shares: Sequence[list[float] | UnsetType] = parts.tolist() if request.explain else nothing
    fields: Sequence[dict[str, Any] | UnsetType] = view.fields(request.fields, rows) if request.fields else nothing
    return list(map(SlateItem, view.ids(rows), scores, shares, fields))


def _wanted(job: Job) -> Wanted:
    request, row_of = job.request, job.view.row_of
    banned = job.history.rows if request.exclude_history else np.empty(0, np.int64)
    if request.exclude:
        banned = np.append(banned, [row_of.get(name, -1) for name in request.exclude])
    return Wanted(request.k, banned[banned >= 0], request.ef)


def _pack(recommendation_id: str, job: Job, items: list[SlateItem], search_ns: int, explain_ns: int) -> bytes:
    manifest = job.view.snapshot.manifest
    return pack(
        Slate(
            recommendation_id=recommendation_id,
            items=items,
            unknown=job.history.unknown,
            revision=job.view.revision,
            encoder=manifest.encoder,
            timings=RecommendTimings(
                queue_us=job.waited_ns // 1000,
                resolve_us=job.resolve_ns // 1000,
                encode_us=job.encode_ns // 1000,
                search_us=search_ns // 1000,
                explain_us=explain_ns // 1000,
                engine=manifest.engine.name,
            ),
        )
    )


def _check_revision(request: RecommendRequest, view: View) -> None:
    """Refuse, for now, what wants a revision that is not here yet.

    Raises:
        RequestError: unavailable.
    """
    if request.min_revision > view.revision:
        raise RequestError(
            ErrorKind.UNAVAILABLE,
            f"min_revision is {request.min_revision}, the catalogue is at revision {view.revision}; try again",
        )


def _missing(jobs: Sequence[Job]) -> list[str]:
    """The distinct texts that these histories still lack."""
    return list(dict.fromkeys(text for job in jobs for text in job.history.missing.values()))


def _fill(jobs: Sequence[Job], vector_of: dict[str, Vectors]) -> None:
    for job in jobs:
        history = job.history
        for position, text in list(history.missing.items()):
            if (vector := vector_of.get(text)) is not None:
                history.vectors[position] = vector
                del history.missing[position]


def _cancelled(users: UserVectors, number: int) -> RequestError:
    return RequestError(
        ErrorKind.VECTORS_CANCEL,
        f"the weighted behaviours add up to a vector of length {users.norms[number]:.2g}, with weights of "
        f"{users.mass[number]:.6g} in all: no direction is left",
    )
