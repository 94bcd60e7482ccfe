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
    Page,
    RecommendRequest,
    RecommendTimings,
    RequestError,
    Slate,
    SlateItem,
    Unpacker,
    pack,
)
from recserve_server_ext.boosts import boost_shares
from recserve_server_ext.catalogue_view import View
from recserve_server_ext.history import History, check_request, check_size, of_encoder
from recserve_server_ext.packed_model import Answer, Encode
from recserve_server_ext.paging import Part, Ranking, Rankings
from recserve_server_ext.retrieval import Wanted, search
from recserve_server_ext.settings import Limits
from recserve_server_ext.slate_maker import Chosen, Wish, check_options, make_slates
from recserve_server_ext.text_cache import TextCaches
from recserve_server_ext.user_vectors import UserVectors, contributions, user_vectors
from recserve_server_ext.view_filters import Allowed, LiveFilters, ViewFilters

Vectors = NDArray[np.float32]
#: Decimals of scores and contributions: the sum of 1,000 of them is off by less than 1e-5 from rounding.
_DECIMALS = 8
_NOTHING = Chosen(np.empty(0, np.int64))


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

    def __init__(self, newest: Callable[[], View], caches: TextCaches, limits: Limits) -> None:
        """
        Args:
            newest: The catalogue as it is now; see `recserve_server_ext.live_catalogue.LiveCatalogue.view`.
            caches: Vectors of texts.
            limits: The largest request.
        """
        self._newest = newest
        self._view = newest()
        self._filters = LiveFilters(self._view)
        self._rankings = Rankings(limits.cursors)
        self._caches = caches
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
        known = of_encoder(request, view.encoder)
        job = self.job(request, lambda: History.of_request(known, view.row_of, self._limits, view.dim))
        if request.page is not None and request.page.cursor is not None:
            job.part = self._rankings.resume(request, request.page.cursor)
        return job

    def job(self, request: RecommendRequest, history: Callable[[], History]) -> Job:
        """A request that passed `check_shape`, with what its history turned out to be.

        Raises:
            RequestError: It is refused.
        """
        view = self._view
        _check_revision(request, view)
        filters = self._filters.of(view)
        job = Job(request, view, history(), filters)
        if request.where is not None:
            job.allowed = filters.allowed(request.where)
        if request.slate is not None:
            job.rules = check_options(request.slate, filters)
        return job

    def look_up(self, jobs: Sequence[Job]) -> None:
        """Fill in the texts that were encoded before."""
        texts = _missing(jobs)
        if texts:
            view = jobs[0].view
            vectors, found = self._caches.of(view.encoder, view.dim).get(texts)
            _fill(jobs, {text: vectors[n] for n, text in enumerate(texts) if found[n]})

    def encode(self, jobs: Sequence[Job], encode: Encode) -> None:
        """Encode the texts that are missing, each distinct one once for all these requests.

        The encoder is the one that made the vectors of their view, whichever is served meanwhile.

        Raises:
            RequestError: unavailable: the encoder did not answer.
        """
        start_ns = time.monotonic_ns()
        texts = _missing(jobs)
        view = jobs[0].view
        vectors = encode(texts, view.encoder)
        self._caches.of(view.encoder, view.dim).put(texts, vectors)
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
                answers[group.numbers[place]] = cancelled(group.users, place)
        live = [number for number, answer in enumerate(answers) if not answer]
        queries = vectors if len(live) == len(jobs) else vectors[live]
        chosen = dict(zip(live, self._choose(view, queries, [jobs[number] for number in live]), strict=True))
        search_ns = time.monotonic_ns() - start_ns
        slates = {number: items for group in groups for number, items in _explain(view, group, jobs, chosen)}
        explain_ns = time.monotonic_ns() - start_ns - search_ns
        random = os.urandom(16 * len(jobs)).hex()
        for number, items in slates.items():
            name = random[32 * number : 32 * number + 32]
            answers[number] = packed_slate(name, jobs[number], items, search_ns, explain_ns)
        return answers

    def _choose(self, view: View, users: Vectors, jobs: Sequence[Job]) -> list[Chosen]:
        """The items of each slate or page: by score, by the options of the slate, or from a ranking that was kept."""
        chosen: list[Chosen] = [_NOTHING] * len(jobs)
        plain = [n for n, job in enumerate(jobs) if job.part is None and job.request.slate is None]
        for number, rows in zip(
            plain, search(view, _some(users, plain), [wanted_of(jobs[n]) for n in plain]), strict=True
        ):
            chosen[number] = Chosen(rows)
        if len(plain) < len(jobs):
            shaped = [(n, wish) for n, job in enumerate(jobs) if job.part is None and (wish := _wish(job)) is not None]
            numbers = [number for number, _ in shaped]
            for number, made in zip(numbers, make_slates(view, users[numbers], [w for _, w in shaped]), strict=True):
                chosen[number] = made
        for number, job in enumerate(jobs):
            if job.request.page is not None:
                chosen[number] = self._page(job, job.request.page, chosen[number])
        return chosen

    def _page(self, job: Job, page: Page, chosen: Chosen) -> Chosen:
        """The page of a job, whose cursor for the next one is set."""
        if job.part is None:
            if len(chosen.rows) <= page.size:
                return chosen
            ranking = Ranking(job.view.ids(chosen.rows), chosen.rules, job.view.revision)
            job.part = Part(self._rankings.keep(ranking), ranking, 0)
        name, ranking, start = job.part
        end = start + page.size
        if end < len(ranking.ids):
            job.cursor = self._rankings.cursor(job.request, name, end)
        return _ranked(job, ranking, slice(start, end))


def _group(view: View, jobs: Sequence[Job]) -> list[_Group]:
    """The jobs by length of history, so that each group is computed as one array."""
    numbers_of: dict[int, list[int]] = defaultdict(list)
    for number, job in enumerate(jobs):
        numbers_of[len(job.history.rows)].append(number)
    groups = []
    for numbers in numbers_of.values():
        members = [jobs[number].history for number in numbers]
        behaviours = vectors_of(view, members)
        weights = np.array([history.weights for history in members])
        groups.append(_Group(numbers, behaviours, weights, user_vectors(behaviours, weights)))
    return groups


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


def _explain(
    view: View, group: _Group, jobs: Sequence[Job], chosen: dict[int, Chosen]
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


def _ranked(job: Job, ranking: Ranking, part: slice) -> Chosen:
    """A part of a ranking as it is now: without the items that are gone, and with the boosts of today."""
    rows = np.array([job.view.row_of.get(item_id, -1) for item_id in ranking.ids[part]], np.int64)
    stays = (rows >= 0) & job.view.available[rows]
    rules = ranking.rules and [names for names, kept in zip(ranking.rules[part], stays, strict=True) if kept]
    boosts = job.request.slate.boosts if job.request.slate is not None else []
    shares = boost_shares(boosts, job.filters.sources(rows[None, stays]))[0] if boosts else None
    return Chosen(rows[stays], shares, rules)


def wanted_of(job: Job) -> Wanted:
    """How many items, and which ones may be among them."""
    request, row_of = job.request, job.view.row_of
    banned = job.history.rows if request.exclude_history else np.empty(0, np.int64)
    if request.exclude:
        banned = np.append(banned, [row_of.get(name, -1) for name in request.exclude])
    if job.banned is not None:
        banned = np.append(banned, job.banned)
    return Wanted(request.k, banned[banned >= 0], request.ef, job.allowed)


def _wish(job: Job) -> Wish | None:
    options = job.request.slate
    return None if options is None else Wish(options, wanted_of(job), job.filters, job.rules)


def _some(users: Vectors, numbers: list[int]) -> Vectors:
    """The vectors of some users, not copied where they are all."""
    return users if len(numbers) == len(users) else users[numbers]


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


def cancelled(users: UserVectors, number: int) -> RequestError:
    """The refusal of a user whose behaviours add up to nothing."""
    return RequestError(
        ErrorKind.VECTORS_CANCEL,
        f"the weighted behaviours add up to a vector of length {users.norms[number]:.2g}, with weights of "
        f"{users.mass[number]:.6g} in all: no direction is left",
    )
