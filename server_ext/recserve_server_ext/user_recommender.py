"""Recommendations by user id, before an ordinary recommender: it gets the user's history in the user's place."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from recserve_client.contract import (
    AssignedVariant,
    ErrorKind,
    RecommendForRequest,
    RecommendTimings,
    RequestError,
    UsedBehaviour,
    pack,
)
from recserve_client.contract.private_packing import PrivateUnpacker
from recserve_server_ext.catalogue_view import View
from recserve_server_ext.errors import InteractionError, UserIdError
from recserve_server_ext.experiment_settings import Experiment
from recserve_server_ext.experiments import Experiments
from recserve_server_ext.history import check_size
from recserve_server_ext.packed_model import Answer, Encode
from recserve_server_ext.popular_slates import popular_slate
from recserve_server_ext.popularity import Popularity, Ranking
from recserve_server_ext.pseudonyms import Pseudonyms
from recserve_server_ext.recommender import Job, Recommender
from recserve_server_ext.settings import Limits
from recserve_server_ext.user_histories import WINDOW, UserHistories, UserPast
from recserve_server_ext.user_requests import check_user_request, translated

#: Refusals that say that a history is of no use.
_COLD: Final = (ErrorKind.EMPTY_HISTORY, ErrorKind.ZERO_WEIGHTS, ErrorKind.VECTORS_CANCEL)
_MARK: Final = b'"user_id"'
#: Before a store that could not be read is asked again.
_PAUSE_S: Final = 1.0


class _Peek(Struct):
    """Whether a request names a user."""

    user_id: Raw | UnsetType = UNSET


class _PackedUserSlate(Struct, omit_defaults=True):
    """`UserSlate` around a slate that is packed already."""

    slate: Raw
    basis: str
    rules: str
    history: list[UsedBehaviour] | UnsetType = UNSET


class UserJob(Struct):
    """One accepted request by user id on its way to an answer; times are in nanoseconds.

    Attributes:
        request: As it was sent, with the options of its variants.
        pseudonym: Of the user.
        variants: Of the experiments that the user takes part in.
        inner: The ordinary request in its place, or why there is none.
        history: What that was made from.
        banned: Items that must not be in the slate.
        view: The catalogue it is answered from.
        ranking: What is popular.
        waited_ns: Time spent waiting.
        resolve_ns: Time of the batch's decoding and look-ups.
    """

    request: RecommendForRequest
    pseudonym: str
    variants: list[AssignedVariant] = []
    inner: Job | RequestError | None = None
    history: list[UsedBehaviour] = []
    banned: list[str] = []
    view: View | None = None
    ranking: Ranking | None = None
    waited_ns: int = 0
    resolve_ns: int = 0

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
        pseudonyms: Pseudonyms,
        histories: UserHistories,
        popularity: Popularity,
        seen: int,
        experiments: Sequence[Experiment],
    ) -> None:
        """
        Args:
            newest: The catalogue as it is now.
            make: Makes a recommender over a catalogue, with limits.
            limits: Of callers' requests.
            pseudonyms: Of the users.
            histories: Reads what users did.
            popularity: For users without a usable history.
            seen: Items that one user can have seen at most.
            experiments: Whose variants users are assigned.
        """
        self._newest = newest
        self._view = newest()
        self._limits = limits
        self._ordinary = make(newest, limits)
        # What users have seen may be more than a caller may exclude.
        sizes = {"request_bytes": 2**30, "history": WINDOW + 100, "exclude": limits.exclude + seen + 100}
        self._inner = make(lambda: self._view, msgspec.structs.replace(limits, **sizes))
        self._pseudonyms = pseudonyms
        self._histories = histories
        self._popularity = popularity
        self._experiments = Experiments(experiments, limits)
        self._unpack = PrivateUnpacker[RecommendForRequest](RecommendForRequest)
        self._peek = PrivateUnpacker[_Peek](_Peek)
        self._ask_again = 0.0
        self._fault = ""

    def begin(self) -> None:
        """Look whether the catalogue has changed."""
        self._ordinary.begin()

    def accept(self, raw: bytes) -> AnyJob:
        """Decode and check a request; a user is looked up later, with the others of the batch.

        Raises:
            RequestError: It is refused.
        """
        if _MARK not in raw:
            return self._ordinary.accept(raw)
        check_size(raw, self._limits)
        if self._peek(raw).user_id is UNSET:
            return self._ordinary.accept(raw)
        asked = self._unpack(raw)
        try:
            pseudonym = self._pseudonyms.of(asked.user_id)
        except UserIdError as error:
            raise RequestError(ErrorKind.INVALID_REQUEST, str(error)) from None
        request, variants = self._experiments.assign(asked, pseudonym)
        check_user_request(request, self._limits)
        return UserJob(request, pseudonym, variants)

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
        for job in users:
            if isinstance(job.inner, Job):
                job.inner.waited_ns, job.inner.resolve_ns = job.waited_ns, job.resolve_ns
        of_plain = iter(self._ordinary.answer(plain) if plain else [])
        inner = _inner_of(users)
        of_inner = iter(self._inner.answer(inner) if inner else [])
        return [
            next(of_plain)
            if isinstance(job, Job)
            else self._finish(job, next(of_inner) if isinstance(job.inner, Job) else job.inner)
            for job in jobs
        ]

    def _resolve(self, users: Sequence[UserJob]) -> None:
        try:
            past = self._read(list(dict.fromkeys(job.pseudonym for job in users)))
        except InteractionError as error:
            for job in users:
                job.inner = RequestError(ErrorKind.UNAVAILABLE, str(error))
            return
        for job in users:
            self._translate(job, past[job.pseudonym])
            job.view = self._view
            # A history may also turn out to be of no use later, in a thread that must not count.
            job.ranking = self._popularity.ranking() if job.request.on_cold == "popularity" else None

    def _read(self, pseudonyms: list[str]) -> dict[str, UserPast]:
        if time.monotonic() < self._ask_again:
            raise InteractionError(self._fault)
        try:
            return self._histories.read(pseudonyms)
        except InteractionError as error:
            # A store that is away must not cost every batch a timeout.
            self._ask_again, self._fault = time.monotonic() + _PAUSE_S, str(error)
            raise

    def _translate(self, job: UserJob, past: UserPast) -> None:
        found = translated(job.request, past, self._limits)
        job.history, job.banned = found.history, found.banned
        if found.request is None:
            job.inner = RequestError(ErrorKind.EMPTY_HISTORY, "nothing usable is recorded of the user")
            return
        try:
            job.inner = self._inner.accept(pack(found.request))
        except RequestError as error:
            job.inner = error

    def _finish(self, job: UserJob, answer: Answer | None) -> Answer:
        assert answer is not None
        if isinstance(answer, bytes):
            history: Any = job.history if job.request.explain else UNSET
            return pack(_PackedUserSlate(Raw(answer), "history", self._histories.version, history))
        if answer.kind not in _COLD or job.ranking is None or job.view is None:
            return answer
        try:
            slate = popular_slate(
                job.request,
                job.view,
                job.ranking,
                set(job.banned),
                rules=self._histories.version,
                window_s=self._popularity.window_s,
                timings=RecommendTimings(job.waited_ns // 1000, job.resolve_ns // 1000, 0, 0, 0, "popularity"),
            )
        except RequestError as error:
            return error
        return pack(slate)


def _apart(jobs: Sequence[AnyJob]) -> tuple[list[Job], list[UserJob]]:
    plain = [job for job in jobs if isinstance(job, Job)]
    return plain, [job for job in jobs if isinstance(job, UserJob)]


def _inner_of(users: Sequence[UserJob]) -> list[Job]:
    return [job.inner for job in users if isinstance(job.inner, Job)]
