"""The Triton model `recommend`: packed requests -> packed slates, for a batch of users. No Triton here."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from recserve_client.contract import ErrorKind, RecommendRequest, RequestError, Slate, models, pack
from recserve_server_ext.attributes.view import LiveFilters
from recserve_server_ext.batching.batcher import Answer, ModelCall
from recserve_server_ext.batching.revision_wait import NotYetError
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.errors import InteractionError, UserIdError, UserKeysError
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.config.server import Limits, ServeSettings
from recserve_server_ext.counts.counter import LogCounter
from recserve_server_ext.encoder.text_cache import TextCaches
from recserve_server_ext.history.user_histories import UserHistories, UserPast
from recserve_server_ext.interactions.keys import UserKeys
from recserve_server_ext.recommend.experiments import Experiments
from recserve_server_ext.recommend.paging import Rankings
from recserve_server_ext.recommend.pipeline import Pipeline
from recserve_server_ext.recommend.profile import profile_of_history, profile_of_user
from recserve_server_ext.recommend.query import Job, ask
from recserve_server_ext.recommend.requests import check_request, check_shape, of_encoder, unpack
from recserve_server_ext.strategies.base import Data
from recserve_server_ext.strategies.counts_view import CountsView
from recserve_server_ext.strategies.registry import Chosen, Registry

#: Before a store that could not be read is asked again, and between two looks for erased users.
_PAUSE_S: Final = 1.0


class Logging(Protocol):
    """Takes answers; see `ImpressionLog.offer`."""

    def offer(self, slate: Slate, pseudonym: str | None, keys: str = "") -> None:
        """Log an answer, if it is drawn and there is room; returns at once."""
        ...


class RecommendService:
    """Answers requests from the catalogue as it is when their batch begins.

    The way of a request: `begin` (once a batch), `accept` (decode, check), `look_up` (users, known texts), then the
    calls of models that it waits for (`pending`, `resume`), then `answer`.
    """

    def __init__(
        self,
        newest: Callable[[], View],
        caches: TextCaches,
        settings: ServeSettings,
        *,
        keys: UserKeys,
        histories: UserHistories,
        counter: LogCounter,
        log: Logging,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            newest: The catalogue as it is now; see `recserve_server_ext.catalogue.live.LiveCatalogue.view`.
            caches: Vectors of texts.
            settings: The server's.
            keys: That pseudonyms are made with.
            histories: Reads what users did.
            counter: Counts what all users did.
            log: Takes the answers.
            clock: Seconds since 1970.

        Raises:
            ConfigError: Strategies or experiments of the settings are wrong.
        """
        self._newest = newest
        self._caches = caches
        self._limits: Limits = settings.limits
        self._default = settings.strategy
        self._keys = keys
        self._histories = histories
        self._counter = counter
        self._log = log
        self._clock = clock
        self._strategies = Registry(settings.strategies)
        self._experiments = Experiments(settings.users.experiments, settings.limits, self._strategies)
        self._fallback = self._strategies.choose(settings.fallback, {})
        self._rankings = Rankings(settings.limits.cursors)
        self._pipeline = Pipeline(self._fallback, self._rankings)
        view = newest()
        self._filters = LiveFilters(view)
        self._data = Data(view, self._filters.of(view), CountsView(counter.last, view))
        self._ask_again = self._look_again = 0.0
        self._fault = ""

    def begin(self) -> None:
        """Look whether the catalogue or the keys have changed, and now and then whether somebody was erased."""
        view = self._newest()
        if view is not self._data.view:
            self._data = Data(view, self._filters.of(view), CountsView(self._data.counts.counts, view))
        now = time.monotonic()
        if now >= self._ask_again:
            self._histories.follow(self._keys)
        if now >= max(self._look_again, self._ask_again):
            self._look_again = now + _PAUSE_S
            try:
                self._histories.forget_erased()
                self._counter.forget_erased(self._histories.erasures)
            except InteractionError as error:
                self._ask_again, self._fault = now + _PAUSE_S, str(error)

    def accept(self, raw: bytes) -> Job:
        """Decode and check a request; a user is looked up later, with the others of the batch.

        Raises:
            RequestError: It is refused.
            NotYetError: It asks for a revision that is not here yet.
        """
        request = unpack(raw, self._limits)
        view = self._data.view
        if request.min_revision > view.revision:
            raise NotYetError(request.min_revision, lambda: self._data.view.revision)
        job = self._job(request) if request.user_id is None else self._user_job(request, request.user_id)
        if job.request.page is not None and job.request.page.cursor is not None:
            job.part = self._rankings.resume(job.request, job.request.page.cursor)
        return job

    def _job(self, request: RecommendRequest) -> Job:
        view = self._data.view
        check_request(request, self._limits)
        check_shape(request, self._limits, view.field_names)
        known = of_encoder(request, view.encoder)
        job = Job(request, self._chosen(request), self._data)
        ask(job, profile_of_history(known, view, self._limits))
        return job

    def _chosen(self, request: RecommendRequest) -> Chosen:
        """The strategy of a request.

        Raises:
            RequestError: There is none of its name, an option is wrong, or it cannot answer yet.
        """
        chosen = self._strategies.choose(request.strategy or self._default, request.options)
        lacking = chosen.strategy.lacking(self._data, chosen.options)
        if lacking is not None:
            raise lacking
        return chosen

    def _user_job(self, asked: RecommendRequest, user_id: str) -> Job:
        pseudonyms = self._keys.pseudonyms
        try:
            pseudonym = pseudonyms.of(user_id)
        except UserIdError as error:
            raise RequestError(ErrorKind.INVALID_REQUEST, str(error)) from None
        request, variants = self._experiments.assign(asked, pseudonyms.origin(pseudonym))
        check_request(request, self._limits)
        check_shape(request, self._limits, self._data.view.field_names)
        return Job(request, self._chosen(request), self._data, pseudonym, pseudonyms.fingerprint, variants)

    def look_up(self, jobs: Sequence[Job]) -> None:
        """Read the histories of the users of the batch, count the log, and fill in texts that were encoded before."""
        self._count(jobs)
        if users := [job for job in jobs if job.pseudonym is not None]:
            self._resolve(users)
        if texts := _missing(jobs):
            view = self._data.view
            vectors, found = self._caches.of(view.encoder, view.text.dim).get(texts)
            _fill(jobs, {text: vectors[n] for n, text in enumerate(texts) if found[n]})

    def pending(self, job: Job) -> ModelCall | None:
        """The texts that a job waits for, and the encoder that made the vectors of its view."""
        if not job.waits_for_texts:
            return None
        return ModelCall(models.ENCODER, job.data.view.encoder, list(dict.fromkeys(job.profile.missing.values())))

    def resume(self, jobs: Sequence[Job], call: ModelCall, results: Vectors, took_ns: int) -> None:
        """Take the vectors of texts."""
        view = jobs[0].data.view
        self._caches.of(call.version, view.text.dim).put(call.inputs, results)
        _fill(jobs, dict(zip(call.inputs, results, strict=True)))
        for job in jobs:
            job.encode_ns = took_ns

    def answer(self, jobs: Sequence[Job]) -> list[Answer]:
        """Slates of requests that wait for nothing, or the error of each that has none."""
        answers: list[Answer] = []
        for job, found in zip(jobs, self._pipeline.run(jobs), strict=True):
            if isinstance(found, Slate):
                packed = pack(found)
                self._log.offer(found, job.pseudonym, job.keys)
                answers.append(packed)
            else:
                answers.append(found)
        return answers

    def _count(self, jobs: Sequence[Job]) -> None:
        """Take the last count of the log where a job looks at it."""
        wanted = {count for job in jobs for count in job.chosen.strategy.counts}
        if any(job.falls_back for job in jobs):
            wanted |= self._fallback.strategy.counts
        thompson = any(job.request.explore is not None and job.request.explore.kind == "thompson" for job in jobs)
        if wanted or thompson:
            counts = self._counter.counts(paired=thompson or "neighbours" in wanted)
            if counts is not self._data.counts.counts:
                self._data = self._data._replace(counts=CountsView(counts, self._data.view))
            for job in jobs:
                job.data = self._data
                if job.query is not None:
                    job.query = job.query.over(self._data)

    def _resolve(self, users: Sequence[Job]) -> None:
        try:
            past = self._read(list(dict.fromkeys(str(job.pseudonym) for job in users)))
            repeaters = [job for job in users if job.request.allow_repeat and job.request.exclude_seen]
            again = self._histories.repeatable({str(job.pseudonym): job.request.allow_repeat for job in repeaters})
        except InteractionError as error:
            for job in users:
                job.error = RequestError(ErrorKind.UNAVAILABLE, str(error))
            return
        now_us = round(self._clock() * MICROSECONDS)
        view = self._data.view
        for job in users:
            pseudonym = str(job.pseudonym)
            job.history_rules = self._histories.version
            known, repeats = past[pseudonym], again.get(pseudonym, set())
            try:
                ask(job, profile_of_user(job.request, known, view, self._limits, now_us, repeats))
            except RequestError as error:
                job.error = error

    def _read(self, pseudonyms: list[str]) -> dict[str, UserPast]:
        if time.monotonic() < self._ask_again:
            raise InteractionError(self._fault)
        try:
            return self._histories.read(pseudonyms)
        except UserKeysError:
            raise  # the store is there, and the next batch has the keys in force
        except InteractionError as error:
            # A store that is away must not cost every batch a timeout.
            self._ask_again, self._fault = time.monotonic() + _PAUSE_S, str(error)
            raise


def _missing(jobs: Sequence[Job]) -> list[str]:
    """The distinct texts that jobs wait for."""
    return list(dict.fromkeys(text for job in jobs if job.waits_for_texts for text in job.profile.missing.values()))


def _fill(jobs: Sequence[Job], vector_of: Mapping[str, Vectors]) -> None:
    """Put the vectors of texts where these were missing."""
    for job in jobs:
        if job.query is None:
            continue
        profile = job.profile
        for position, text in list(profile.missing.items()):
            if (vector := vector_of.get(text)) is not None:
                profile.vectors[position] = vector
                del profile.missing[position]
