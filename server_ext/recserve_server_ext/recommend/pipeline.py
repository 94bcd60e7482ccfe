"""Packed recommend requests -> packed slates, for a batch of users. No Triton here."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from recserve_client.contract import Page, RecommendRequest, Unpacker
from recserve_server_ext.attributes.boosts import boost_shares
from recserve_server_ext.attributes.view import LiveFilters
from recserve_server_ext.batching.batcher import Answer, Encode
from recserve_server_ext.batching.request_checks import check_size
from recserve_server_ext.batching.revision_wait import NotYetError
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.common.arrays import Rows, Vectors
from recserve_server_ext.config.server import Limits
from recserve_server_ext.encoder.text_cache import TextCaches
from recserve_server_ext.recommend.explain import UserGroup, explained, packed_slate
from recserve_server_ext.recommend.paging import Part, Ranking, Rankings
from recserve_server_ext.recommend.query import (
    Job,
    cancelled,
    fill_texts,
    missing_texts,
    vectors_of,
    wanted_of,
    wish_of,
)
from recserve_server_ext.recommend.requests import History, check_request, of_encoder
from recserve_server_ext.retrieval.search import search
from recserve_server_ext.slate.maker import Chosen, check_options, make_slates
from recserve_server_ext.strategies.text import user_vectors

_NOTHING = Chosen(np.empty(0, np.int64))


class Recommender:
    """Answers requests from the catalogue as it is when their batch begins.

    The way of a request: `begin` (once a batch), `accept` (decode, check), `look_up`, `encode` when texts are missing,
    `answer`.
    """

    def __init__(self, newest: Callable[[], View], caches: TextCaches, limits: Limits) -> None:
        """
        Args:
            newest: The catalogue as it is now; see `recserve_server_ext.catalogue.live.LiveCatalogue.view`.
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
            NotYetError: It asks for a revision that is not here yet.
        """
        check_size(raw, self._limits)
        request = self._unpack(raw)
        self.require(request.min_revision)
        view = self._view
        check_request(request, self._limits, view.field_names)
        known = of_encoder(request, view.encoder)
        job = self.job(request, lambda: History.of_request(known, view.row_of, self._limits, view.dim))
        if request.page is not None and request.page.cursor is not None:
            job.part = self._rankings.resume(request, request.page.cursor)
        return job

    def require(self, revision: int) -> None:
        """See whether a revision of the catalogue is here.

        Raises:
            NotYetError: It is not.
        """
        if revision > self._view.revision:
            raise NotYetError(revision, lambda: self._view.revision)

    def job(self, request: RecommendRequest, history: Callable[[], History]) -> Job:
        """A request that passed `check_shape`, with what its history turned out to be.

        Raises:
            RequestError: It is refused.
        """
        view = self._view
        filters = self._filters.of(view)
        job = Job(request, view, history(), filters)
        if request.where is not None:
            job.allowed = filters.allowed(request.where)
        if request.slate is not None:
            job.rules = check_options(request.slate, filters)
        return job

    def look_up(self, jobs: Sequence[Job]) -> None:
        """Fill in the texts that were encoded before."""
        texts = missing_texts(jobs)
        if texts:
            view = jobs[0].view
            vectors, found = self._caches.of(view.encoder, view.dim).get(texts)
            fill_texts(jobs, {text: vectors[n] for n, text in enumerate(texts) if found[n]})

    def encode(self, jobs: Sequence[Job], encode: Encode) -> None:
        """Encode the texts that are missing, each distinct one once for all these requests.

        The encoder is the one that made the vectors of their view, whichever is served meanwhile.

        Raises:
            RequestError: unavailable: the encoder did not answer.
        """
        start_ns = time.monotonic_ns()
        texts = missing_texts(jobs)
        view = jobs[0].view
        vectors = encode(texts, view.encoder)
        self._caches.of(view.encoder, view.dim).put(texts, vectors)
        fill_texts(jobs, dict(zip(texts, vectors, strict=True)))
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
        slates = {number: items for group in groups for number, items in explained(view, group, jobs, chosen)}
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
            shaped = [
                (n, wish) for n, job in enumerate(jobs) if job.part is None and (wish := wish_of(job)) is not None
            ]
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
        rows = np.array([job.view.row_of.get(item_id, -1) for item_id in ranking.ids[start:]], np.int64)
        # In the place of what is gone comes what follows: only the last page is short.
        left = np.flatnonzero((rows >= 0) & job.view.available[rows])
        if len(left) > page.size:
            job.cursor = self._rankings.cursor(job.request, name, start + int(left[page.size]))
        return _ranked(job, ranking, start + left[: page.size], rows[left[: page.size]])


def _group(view: View, jobs: Sequence[Job]) -> list[UserGroup]:
    """The jobs by length of history, so that each group is computed as one array."""
    numbers_of: dict[int, list[int]] = defaultdict(list)
    for number, job in enumerate(jobs):
        numbers_of[len(job.history.rows)].append(number)
    groups = []
    for numbers in numbers_of.values():
        members = [jobs[number].history for number in numbers]
        behaviours = vectors_of(view, members)
        weights = np.array([history.weights for history in members])
        groups.append(UserGroup(numbers, behaviours, weights, user_vectors(behaviours, weights)))
    return groups


def _ranked(job: Job, ranking: Ranking, places: Rows, rows: Rows) -> Chosen:
    """Some places of a ranking as they are now: with the boosts of today."""
    rules = ranking.rules and [ranking.rules[place] for place in places.tolist()]
    boosts = job.request.slate.boosts if job.request.slate is not None else []
    shares = boost_shares(boosts, job.filters.sources(rows[None]))[0] if boosts else None
    return Chosen(rows, shares, rules)


def _some(users: Vectors, numbers: list[int]) -> Vectors:
    """The vectors of some users, not copied where they are all."""
    return users if len(numbers) == len(users) else users[numbers]
