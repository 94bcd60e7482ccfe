"""Recommendations by user id, around an ordinary recommender: it gets the user's history in the user's place."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import UNSET, Raw, Struct, UnsetType

from recserve_client.contract import AssignedVariant, ErrorKind, RecommendForRequest, RequestError, pack
from recserve_client.contract.private_packing import PrivateUnpacker
from recserve_server_ext.batching.batcher import Answer, Encode
from recserve_server_ext.batching.request_checks import check_size
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.common.errors import InteractionError, UserIdError, UserKeysError
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.config.blend import BlendRules
from recserve_server_ext.config.experiments import Experiment
from recserve_server_ext.config.server import Limits
from recserve_server_ext.counts.counter import LogCounter
from recserve_server_ext.history.user_histories import UserHistories, UserPast
from recserve_server_ext.interactions.keys import UserKeys
from recserve_server_ext.recommend.experiments import Experiments
from recserve_server_ext.recommend.pipeline import Recommender
from recserve_server_ext.recommend.profile import Made, check_user_request
from recserve_server_ext.recommend.query import Job
from recserve_server_ext.recommend.ranking import Plan, Ranked, UserRanker
from recserve_server_ext.recommend.user_plans import plan_of, planned
from recserve_server_ext.recommend.user_slates import PackedUserSlate, packed_ranked, popular_reasons
from recserve_server_ext.strategies.counts_view import CountsView

#: Refusals that say that a history is of no use.
_COLD: Final = (ErrorKind.EMPTY_HISTORY, ErrorKind.ZERO_WEIGHTS, ErrorKind.VECTORS_CANCEL)
_MARK: Final = b'"user_id"'
#: Before a store that could not be read is asked again, and between two looks for erased users.
_PAUSE_S: Final = 1.0


class _Peek(Struct):
    """Whether a request names a user."""

    user_id: Raw | UnsetType = UNSET


class UserJob(Struct):
    """One accepted request by user id on its way to an answer; times are in nanoseconds.

    Attributes:
        request: As it was sent, with the options of its variants.
        pseudonym: Of the user.
        variants: Of the experiments that the user takes part in.
        keys: Fingerprint of the ring that the pseudonym was made by.
        inner: The ordinary request in its place, or why there is none.
        made: The history of that; none = there is none.
        plan: What makes the slate; none = the ordinary recommender does.
        counts: Of the log, over the view that it is answered from.
        waited_ns: Time spent waiting.
        resolve_ns: Time of the batch's decoding and look-ups.
    """

    request: RecommendForRequest
    pseudonym: str
    variants: list[AssignedVariant] = []
    keys: str = ""
    inner: Job | RequestError | None = None
    made: Made | None = None
    plan: Plan | None = None
    counts: CountsView | None = None
    waited_ns: int = 0
    resolve_ns: int = 0

    @property
    def encoder(self) -> str:
        """Runtime fingerprint of the encoder that its texts go to."""
        return self.inner.encoder if isinstance(self.inner, Job) else ""

    @property
    def needs_encoder(self) -> bool:
        """Whether texts of the history must be encoded first."""
        return isinstance(self.inner, Job) and self.inner.needs_encoder


AnyJob = Job | UserJob
Make = Callable[[Callable[[], View], Limits], Recommender]


class UserRecommender:
    """A recommender that also takes requests by user id; all others it hands on as they are."""

    def __init__(
        self,
        newest: Callable[[], View],
        make: Make,
        limits: Limits,
        *,
        keys: UserKeys,
        histories: UserHistories,
        counter: LogCounter,
        blend: BlendRules,
        experiments: Sequence[Experiment],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            newest: The catalogue as it is now.
            make: Makes a recommender over a catalogue, with limits.
            limits: Of callers' requests.
            keys: That pseudonyms are made with.
            histories: Reads what users did.
            counter: Counts what all users did.
            blend: Rules of the strategy `blend`.
            experiments: Whose variants users are assigned.
            clock: Seconds since 1970.
        """
        self._clock = clock
        self._newest = newest
        self._view = newest()
        self._limits = limits
        self._ordinary = make(newest, limits)
        self._inner = make(lambda: self._view, limits)
        self._keys = keys
        self._histories = histories
        self._counter = counter
        self._counts = CountsView(counter.counts(), self._view)
        self._ranker = UserRanker(blend)
        self._experiments = Experiments(experiments, limits)
        self._unpack = PrivateUnpacker[RecommendForRequest](RecommendForRequest)
        self._peek = PrivateUnpacker[_Peek](_Peek)
        self._ask_again = 0.0
        self._look_again = 0.0
        self._fault = ""

    def begin(self) -> None:
        """Look whether the catalogue or the keys have changed, and now and then whether somebody was erased."""
        self._ordinary.begin()
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

    def accept(self, raw: bytes) -> AnyJob:
        """Decode and check a request; a user is looked up later, with the others of the batch.

        Raises:
            RequestError: It is refused.
            NotYetError: It asks for a revision that is not here yet.
        """
        if _MARK not in raw:
            return self._ordinary.accept(raw)
        check_size(raw, self._limits)
        if self._peek(raw).user_id is UNSET:
            return self._ordinary.accept(raw)
        asked = self._unpack(raw)
        pseudonyms = self._keys.pseudonyms
        try:
            pseudonym = pseudonyms.of(asked.user_id)
        except UserIdError as error:
            raise RequestError(ErrorKind.INVALID_REQUEST, str(error)) from None
        self._ordinary.require(asked.min_revision)
        request, variants = self._experiments.assign(asked, pseudonyms.origin(pseudonym))
        check_user_request(request, self._limits)
        return UserJob(request, pseudonym, variants, pseudonyms.fingerprint)

    def look_up(self, jobs: Sequence[AnyJob]) -> None:
        """Read the histories of the users of the batch, and fill in the texts that were encoded before."""
        plain, users = _apart(jobs)
        self._ordinary.look_up(plain)
        if users:
            self._view = self._newest()
            self._inner.begin()
            self._resolve(users)
            self._inner.look_up(_inner_of(users))

    def encode(self, jobs: Sequence[AnyJob], encode: Encode) -> None:
        """Encode the texts that are missing.

        Raises:
            RequestError: unavailable: the encoder did not answer.
        """
        plain, users = _apart(jobs)
        if plain:
            self._ordinary.encode(plain, encode)
        if inner := [job for job in _inner_of(users) if job.needs_encoder]:
            self._inner.encode(inner, encode)

    def answer(self, jobs: Sequence[AnyJob]) -> list[Answer]:
        """Slates of requests with nothing missing, or the error of each that has none."""
        plain, users = _apart(jobs)
        answer_of = dict(zip(map(id, plain), self._ordinary.answer(plain) if plain else [], strict=True))
        for job in users:
            if isinstance(job.inner, Job):
                job.inner.waited_ns, job.inner.resolve_ns = job.waited_ns, job.resolve_ns
            elif job.inner is not None:
                answer_of[id(job)] = job.inner
        simple = [job for job in users if isinstance(job.inner, Job) and job.plan is None]
        for job, answer in zip(simple, self._inner.answer(_inner_of(simple)) if simple else [], strict=True):
            answer_of[id(job)] = self._wrapped(job, answer)
        self._rank([job for job in users if job.plan is not None], answer_of)
        # A history may turn out to be of no use only now.
        cold = [job for job in users if _is_cold(job, answer_of[id(job)])]
        for job in cold:
            assert isinstance(job.inner, Job)
            assert job.counts is not None
            job.made, job.plan = None, plan_of(job.request, job.inner, None, job.counts)
        self._rank(cold, answer_of)
        return [answer_of[id(job)] for job in jobs]

    def _resolve(self, users: Sequence[UserJob]) -> None:
        try:
            past = self._read(list(dict.fromkeys(job.pseudonym for job in users)))
            repeaters = [job for job in users if job.request.allow_repeat and job.request.exclude_seen]
            again = self._histories.repeatable({job.pseudonym: job.request.allow_repeat for job in repeaters})
        except InteractionError as error:
            for job in users:
                job.inner = RequestError(ErrorKind.UNAVAILABLE, str(error))
            return
        counts = self._counter.counts(paired=any(_needs_pairs(job.request) for job in users))
        if counts is not self._counts.counts or self._view is not self._counts.view:
            self._counts = CountsView(counts, self._view)
        now_us = round(self._clock() * MICROSECONDS)
        for job in users:
            job.counts = self._counts
            known, repeats = past[job.pseudonym], again.get(job.pseudonym, set())
            try:
                found = planned(job.request, known, self._counts, self._inner, self._limits, now_us, repeats)
            except RequestError as error:
                job.inner = error
            else:
                job.inner, job.made, job.plan = found

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

    def _rank(self, jobs: Sequence[UserJob], answer_of: dict[int, Answer]) -> None:
        """Answer the jobs that have a plan."""
        if not jobs:
            return
        counts = jobs[0].counts
        assert counts is not None
        start_ns = time.monotonic_ns()
        found = self._ranker.rank(counts, [job.plan for job in jobs if job.plan is not None])
        rank_ns = time.monotonic_ns() - start_ns
        for job, ranked in zip(jobs, found, strict=True):
            answer_of[id(job)] = ranked if isinstance(ranked, RequestError) else self._ranked(job, ranked, rank_ns)

    def _ranked(self, job: UserJob, ranked: Ranked, rank_ns: int) -> bytes:
        plan, made, version = job.plan, job.made, self._histories.version
        assert plan is not None
        slate = packed_ranked(plan, ranked, rank_ns)
        if made is None:
            popular = popular_reasons(plan, ranked)
            return pack(PackedUserSlate(slate, "popularity", version, popular=popular))
        several = job.request.interests > 1
        used = made.used(ranked.labels if several else None) if job.request.explain else UNSET
        masses = ranked.masses if several else UNSET
        return pack(PackedUserSlate(slate, "history", version, used, interests=masses))

    def _wrapped(self, job: UserJob, answer: Answer) -> Answer:
        if isinstance(answer, RequestError) or job.made is None:
            return answer
        used = job.made.used() if job.request.explain else UNSET
        return pack(PackedUserSlate(Raw(answer), "history", self._histories.version, used))


def _needs_pairs(request: RecommendForRequest) -> bool:
    """Whether item-to-item counts or clicks are looked at."""
    return request.strategy == "blend" or (request.explore is not None and request.explore.kind == "thompson")


def _is_cold(job: UserJob, answer: Answer) -> bool:
    """Whether what is popular is wanted in the place of an answer."""
    return (
        isinstance(answer, RequestError)
        and answer.kind in _COLD
        and isinstance(job.inner, Job)
        and job.request.on_cold == "popularity"
    )


def _apart(jobs: Sequence[AnyJob]) -> tuple[list[Job], list[UserJob]]:
    plain = [job for job in jobs if isinstance(job, Job)]
    return plain, [job for job in jobs if isinstance(job, UserJob)]


def _inner_of(users: Sequence[UserJob]) -> list[Job]:
    return [job.inner for job in users if isinstance(job.inner, Job)]
