"""The service behind the Triton model `recommend`: packed requests -> packed slates. Independent of Triton."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Final, Protocol

from recserve_client.contract import ErrorKind, RecommendRequest, RequestError, Slate, models, pack_answer
from recserve_server_ext.attributes.view import LiveFilters
from recserve_server_ext.batching.batcher import Answer, Handler, ModelCall
from recserve_server_ext.batching.revision_wait import NotYetError
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.errors import ConfigError, InteractionError, UserIdError, UserKeysError
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.config.experiments import Experiment
from recserve_server_ext.config.server import Limits, ServeSettings
from recserve_server_ext.counts.counter import LogCounter
from recserve_server_ext.encoder.text_cache import TextCaches
from recserve_server_ext.history import sentiment
from recserve_server_ext.history.recorded_history import RecordedHistory, find_rows
from recserve_server_ext.history.replay import histories_before
from recserve_server_ext.history.user_histories import UserHistories
from recserve_server_ext.index.model import Model
from recserve_server_ext.interactions.keys import UserKeys
from recserve_server_ext.recommend.comments import weigh_comments
from recserve_server_ext.recommend.experiments.assignment import Experiments
from recserve_server_ext.recommend.held_requests import Held, HeldRequests, is_replay
from recserve_server_ext.recommend.job import Job
from recserve_server_ext.recommend.paging import RankingCache
from recserve_server_ext.recommend.pipeline import Pipeline
from recserve_server_ext.recommend.profile import profile_of_user
from recserve_server_ext.recommend.query import build_history_queries, build_query
from recserve_server_ext.recommend.requests import check_now, check_request, check_shape, unpack
from recserve_server_ext.recommend.young import young_places
from recserve_server_ext.services.answer_counts import AnswerCounts
from recserve_server_ext.services.traces import Traces
from recserve_server_ext.strategies.base import ConfiguredStrategy, Data
from recserve_server_ext.strategies.parts.chosen import with_chosen
from recserve_server_ext.strategies.parts.counts_view import CountsView
from recserve_server_ext.strategies.registry import Registry

_log = logging.getLogger(__name__)
#: Time until a store that could not be read is asked again, and between two checks for erased users.
_PAUSE_S: Final = 1.0


class AnswerSink(Protocol):
    """Logs answers; see `recserve_server_ext.interactions.impressions.log.ImpressionLog`."""

    def offer(self, slate: Slate, pseudonym: str | None, keys: str = "") -> bool:
        """Log an answer, if it is sampled and the queue has room; returns at once whether it will be written."""
        ...

    def serve(self, experiments: Sequence[Experiment]) -> None:
        """Log what these experiments are, before answers with them."""
        ...


_NOTHING: Final[Mapping[str, Any]] = {}


def _nothing_chosen() -> Mapping[str, Any]:
    """The same object each time, since another one means a new choice."""
    return _NOTHING


class RecommendService(Handler[Job]):
    """Answers requests from the catalogue as it is when their batch begins.

    The steps of a request are `begin` (once for a batch), `accept` (decode, check), `look_up` (users, cached texts),
    the model calls that it waits for (`pending`, `resume`), and `answer`.

    Attributes:
        counts: Counts of the answers.
        experiments: The experiments that are served.
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
        log: AnswerSink,
        traces: Traces | None = None,
        chosen: Callable[[], Mapping[str, Any]] = _nothing_chosen,
        experiments: Callable[[], Sequence[Experiment]] = tuple,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            newest: Returns the current catalogue; see `recserve_server_ext.catalogue.live.LiveCatalogue.view`.
            caches: Cached vectors of texts.
            settings: The server's settings.
            keys: Keys of the pseudonyms.
            histories: Reads the histories of users.
            counter: Counts the interaction log.
            log: Logs the answers.
            traces: Traces the answers; by default as the settings say.
            chosen: Options of the strategy `auto` that an evaluation chose; those of the settings win. Another object
                means another choice.
            experiments: The running experiments; another object means others.
            clock: Seconds since 1970.

        Raises:
            ConfigError: The settings of strategies or experiments are invalid.
        """
        self._newest = newest
        self._caches = caches
        self._limits: Limits = settings.limits
        self._default = settings.strategy
        self._keys = keys
        self._histories = histories
        self._counter = counter
        self._log = log
        self._traces = traces or Traces(settings.traces)
        self._clock = clock
        self._settings = settings
        self._rankings = RankingCache(settings.limits.cursors)
        self._held = HeldRequests()
        self._choose, self._chosen = chosen, chosen()
        self._take_strategies(self._chosen)
        self._experimenting = experiments
        self._take_experiments(experiments())
        view = newest()
        self._filters = LiveFilters(view)
        self._data = Data(view, self._filters.of(view), CountsView(counter.last, view))
        self._named: tuple[object, object, tuple[int, int]] = (None, None, (0, 0))
        self._retry_at = self._next_erasure_check = 0.0
        self._store_error = ""
        self._sentiment_model: Model | None = None
        self._sentiment: sentiment.Sentiment | None = None
        self.counts = AnswerCounts()

    def named_interactions(self) -> tuple[int, int]:
        """Counted interactions that name an item, and those among them whose item the served catalogue has."""
        view, named = self._data.view, self._data.counts.counts.named
        if self._named[0] is not named or self._named[1] is not view.snapshot:
            row_of = view.row_of.get
            known = sum(count for item, count in named.items() if row_of(item, -1) >= 0)
            self._named = named, view.snapshot, (sum(named.values()), known)
        return self._named[2]

    def begin(self) -> None:
        """Take the current catalogue and keys, and check periodically for erased users."""
        view = self._newest()
        if view is not self._data.view:
            self._data = Data(view, self._filters.of(view), CountsView(self._data.counts.counts, view))
        self._follow_files()
        self._follow_sentiment(view)
        now = time.monotonic()
        if now >= self._retry_at:
            self._histories.follow(self._keys)
        if now >= max(self._next_erasure_check, self._retry_at):
            self._next_erasure_check = now + _PAUSE_S
            try:
                self._histories.forget_erased()
                self._counter.forget_erased(self._histories.erasures)
            except InteractionError as error:
                self._retry_at, self._store_error = now + _PAUSE_S, str(error)
        self._held.forget_erased(self._histories.erasures)

    def _follow_files(self) -> None:
        """Serve what an evaluation chose since, and the experiments that run now."""
        chosen, experiments = self._choose(), self._experimenting()
        if chosen is not self._chosen:
            self._chosen = chosen
            try:
                self._take_strategies(chosen)
            except ConfigError as error:
                _log.error("the choice of the evaluation stays as it was: %s", error)
        if experiments is not self._wanted:
            try:
                self._take_experiments(experiments)
            except ConfigError as error:
                _log.error("the experiments stay as they were: %s", error)

    def _follow_sentiment(self, view: View) -> None:
        """Serve the classifier of the current index; without one comments are not even read."""
        model = view.snapshot.models.get(sentiment.NAME)
        if model is not self._sentiment_model:
            self._sentiment_model = model
            self._sentiment = None if model is None else sentiment.Sentiment.of_model(model)
        self._histories.reads_comments = model is not None

    def _take_strategies(self, chosen: Mapping[str, Any]) -> None:
        """Serve by the settings, and by what was chosen for `auto`; raises ConfigError where that is invalid."""
        settings = self._settings
        strategies = Registry(with_chosen(settings.strategies, chosen))
        fallback = strategies.choose(settings.fallback, {})
        self._strategies, self._fallback = strategies, fallback
        self._pipeline = Pipeline(fallback, self._rankings, young_places(settings.young_share, strategies))

    def _take_experiments(self, experiments: Sequence[Experiment]) -> None:
        """Serve these experiments; raises ConfigError where they are invalid, and serves those before."""
        self._wanted = experiments
        self._experiments = Experiments(experiments, self._limits, self._strategies)
        self._log.serve(experiments)
        self.experiments = experiments

    def accept(self, raw: bytes) -> Job:
        """Decode and check a request; its user is looked up later, with the others of the batch.

        Raises:
            RequestError: The request is refused.
            NotYetError: The request asks for a revision that is not served yet.
        """
        request, pseudonym = unpack(raw, self._limits), ""
        if is_replay(request):
            held = self._held.again(request, self._keys.pseudonyms.fingerprint)
            request, pseudonym = held.request, held.pseudonym or ""
        check_now(request, self._limits, self._clock())
        view = self._data.view
        if request.min_revision > view.revision:
            raise NotYetError(request.min_revision, lambda: self._data.view.revision)
        if request.user_id is None:
            job = self._history_job(request)
        else:
            job = self._user_job(request, pseudonym or self._pseudonym_of(request.user_id))
        if job.request.page is not None and job.request.page.cursor is not None:
            job.page = self._rankings.resume(job.request, job.request.page.cursor)
        job.size_bytes = len(raw)
        return job

    def _history_job(self, request: RecommendRequest) -> Job:
        check_request(request, self._limits)
        check_shape(request, self._limits, self._data.view.field_names)
        return Job(request, self._configured(request), self._data)

    def _configured(self, request: RecommendRequest) -> ConfiguredStrategy:
        """The strategy of a request with its options.

        Raises:
            RequestError: The strategy is unknown, an option is invalid, or the strategy cannot answer yet.
        """
        configured = self._strategies.choose(request.strategy or self._default, request.options)
        lacking = configured.strategy.lacking(self._data, configured.options)
        if lacking is not None:
            raise lacking
        return configured

    def _pseudonym_of(self, user_id: str) -> str:
        try:
            return self._keys.pseudonyms.of(user_id)
        except UserIdError as error:
            raise RequestError(ErrorKind.INVALID_REQUEST, str(error)) from None

    def _user_job(self, original: RecommendRequest, pseudonym: str) -> Job:
        pseudonyms = self._keys.pseudonyms
        request, variants = self._experiments.assign(original, pseudonyms.origin(pseudonym))
        check_request(request, self._limits)
        check_shape(request, self._limits, self._data.view.field_names)
        return Job(request, self._configured(request), self._data, pseudonym, pseudonyms.fingerprint, variants)

    def look_up(self, jobs: Sequence[Job]) -> None:
        """Read the histories of the batch's users, take the counts of the log, and fill in cached vectors of texts."""
        start_ns = time.monotonic_ns()
        build_history_queries([job for job in jobs if job.pseudonym is None], self._limits)
        of_today = [job for job in jobs if job.request.now is None]
        self._take_counts(of_today)
        if user_jobs := [job for job in of_today if job.pseudonym is not None]:
            self._resolve_users(user_jobs)
        for job in jobs:
            if job.request.now is not None:
                self._replay(job, round(job.request.now * MICROSECONDS))
        for job in jobs:
            job.take_sentiment(self._sentiment if job.configured.strategy.is_personal else None)
        if texts := list(dict.fromkeys(text for job in jobs for text in job.waiting_texts)):
            view = self._data.view
            vectors, is_cached = self._caches.of(view.encoder, view.text.dim).get(texts)
            self.counts.add_texts(is_cached)
            _fill_in(jobs, {text: vectors[n] for n, text in enumerate(texts) if is_cached[n]})
        took_ns = time.monotonic_ns() - start_ns
        for job in jobs:
            job.profile_ns = took_ns

    def pending(self, job: Job) -> ModelCall | None:
        """What a job waits for: texts for the encoder of its catalogue, then what its strategy asks; or `None`."""
        texts = job.waiting_texts
        return ModelCall(models.ENCODER, job.data.view.encoder, texts) if texts else self._pipeline.pending(job)

    def resume(self, jobs: Sequence[Job], call: ModelCall, results: Vectors, took_ns: int) -> None:
        """Cache and fill in the vectors of encoded texts, or give strategies what they waited for."""
        result_of = dict(zip(call.inputs, results, strict=True))
        if call.model == models.ENCODER:
            self._caches.of(call.version, jobs[0].data.view.text.dim).put(call.inputs, results)
            _fill_in(jobs, result_of)
        else:
            for job in jobs:
                self._pipeline.resume(job, result_of)
        for job in jobs:
            job.encode_ns += took_ns

    def together(self, job: Job) -> Hashable:
        """The very catalogue and counts of a request."""
        return id(job.data)

    def answer(self, jobs: Sequence[Job]) -> list[Answer]:
        """Packed slates of requests that wait for nothing, or their errors; slates are logged."""
        answers: list[Answer] = []
        for job, result in zip(jobs, self._pipeline.run(jobs, self.experiments), strict=True):
            if not isinstance(result, Slate):
                answers.append(result)
                continue
            answers.append(pack_answer(result, job.request.accept))
            if job.request.now is None and not is_replay(job.request):
                # Who asks for a walk only looks on: that is no impression.
                if job.request.walk is None and self._log.offer(result, job.pseudonym, job.keys):
                    held = Held(job.request, job.pseudonym, job.keys)
                    self._held.hold(result.recommendation_id, held, job.size_bytes)
                self._traces.add(job, result)
                self.counts.add(job, result)
        return answers

    def _take_counts(self, jobs: Sequence[Job]) -> None:
        """Take the last counts of the log, where a job needs them."""
        wanted = {count for job in jobs for count in job.configured.strategy.counts}
        if any(job.falls_back for job in jobs):
            wanted |= self._fallback.strategy.counts
        thompson = any(job.request.explore is not None and job.request.explore.kind == "thompson" for job in jobs)
        if wanted or thompson:
            counts = self._counter.counts(full=thompson or "neighbours" in wanted)
            if counts is not self._data.counts.counts:
                self._data = self._data._replace(counts=CountsView(counts, self._data.view))
            for job in jobs:
                if job.data is not self._data:
                    job.data = self._data
                    job.query = None if job.query is None else job.query.with_data(self._data)

    def _replay(self, job: Job, now_us: int) -> None:
        """Give a job the counts and the history as of a moment."""
        wanted = job.configured.strategy.counts | (self._fallback.strategy.counts if job.falls_back else frozenset())
        request, view = job.request, self._data.view
        try:
            if wanted:
                counts = self._counter.counts_before(now_us, full="neighbours" in wanted)
                job.data = self._data._replace(counts=CountsView(counts, view))
            if job.pseudonym is not None:
                job.history_rules = self._histories.version
                found = histories_before(self._histories, [job.pseudonym], now_us)[job.pseudonym]
                again = found.repeatable(request.allow_repeat)
                build_query(job, profile_of_user(request, found.history, view, self._limits, now_us, again))
            elif job.query is not None:
                job.query = job.query.with_data(job.data)
        except InteractionError as error:
            job.error = RequestError(ErrorKind.UNAVAILABLE, str(error))
        except RequestError as error:
            job.error = error

    def _resolve_users(self, jobs: Sequence[Job]) -> None:
        """Give jobs by user id their queries; the store is read once for all of them."""
        try:
            histories = self._read(list(dict.fromkeys(str(job.pseudonym) for job in jobs)))
            repeating = [job for job in jobs if job.request.allow_repeat and job.request.exclude_seen]
            repeatable = self._histories.repeatable({str(job.pseudonym): job.request.allow_repeat for job in repeating})
        except InteractionError as error:
            for job in jobs:
                job.error = RequestError(ErrorKind.UNAVAILABLE, str(error))
            return
        now_us = round(self._clock() * MICROSECONDS)
        view = self._data.view
        find_rows(histories.values(), view)
        for job in jobs:
            pseudonym = str(job.pseudonym)
            job.history_rules = self._histories.version
            history, again = histories[pseudonym], repeatable.get(pseudonym, set())
            try:
                build_query(job, profile_of_user(job.request, history, view, self._limits, now_us, again))
            except RequestError as error:
                job.error = error

    def _read(self, pseudonyms: list[str]) -> dict[str, RecordedHistory]:
        if time.monotonic() < self._retry_at:
            raise InteractionError(self._store_error)
        try:
            return self._histories.read(pseudonyms)
        except UserKeysError:
            raise  # the store works, and the next batch takes the new keys
        except InteractionError as error:
            # An unavailable store must not cost every batch a timeout.
            self._retry_at, self._store_error = time.monotonic() + _PAUSE_S, str(error)
            raise


def _fill_in(jobs: Sequence[Job], vector_of: Mapping[str, Vectors]) -> None:
    """Give the profiles of jobs the vectors of their texts, and the weights that comments make."""
    for job in jobs:
        job.take_vectors(vector_of)
    weigh_comments(jobs, vector_of)
