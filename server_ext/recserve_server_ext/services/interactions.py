"""The service behind the Triton model `interactions`: records, reads and erases interactions. Independent of Triton."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from recserve_client.contract import (
    EraseUser,
    ErasureReceipt,
    ErasureVerified,
    ErrorKind,
    ExportUser,
    InteractionResult,
    InteractionsRecorded,
    InteractionsRequest,
    LoggedAnswer,
    ModelTrace,
    NewInteraction,
    ReadHistory,
    RecordInteractions,
    RequestError,
    SeenItem,
    Unpacker,
    UserExport,
    UserHistory,
    VerifyErasure,
    pack,
)
from recserve_server_ext.batching.batcher import Answer, Handler
from recserve_server_ext.batching.request_checks import too_large
from recserve_server_ext.common.errors import InteractionError, UserIdError
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.config.server import Limits
from recserve_server_ext.history.contract_history import history_of
from recserve_server_ext.interactions.erasure import is_receipt_of, receipt_of
from recserve_server_ext.interactions.interaction import Interaction, Recorded
from recserve_server_ext.interactions.keys import UserKeys
from recserve_server_ext.interactions.store import InteractionStore

#: Latest time of a receipt, in seconds since 1970: far beyond any real one, and exact in microseconds.
_LATEST_S: Final = 1e11
#: Reasons of refusals, beside those of `recserve_server_ext.interactions.interaction.Refused`.
_MALFORMED: Final = "malformed"
_TOO_LARGE: Final = "too_large"
_INVALID_USER: Final = "invalid_user"


class InteractionsJob(Struct):
    """The state of one accepted request; times are in nanoseconds.

    Attributes:
        request: The request.
        pseudonym: Pseudonym of its user; empty for a request that records.
        checked: Interactions to record and refusals of others, in the order of the request.
        waited_ns: Time spent waiting.
        resolve_ns: Time spent by the batch on decoding.
    """

    request: InteractionsRequest
    pseudonym: str = ""
    checked: list[Interaction | InteractionResult] = []
    waited_ns: int = 0
    resolve_ns: int = 0


class InteractionService(Handler[InteractionsJob]):
    """Records, reads and erases the interactions of users.

    Consecutive recording requests of a batch share transactions, so that callers share the fsyncs. Requests of a batch
    are answered in order. User ids become pseudonyms in `accept`; no error message contains one.
    """

    def __init__(
        self,
        store: Callable[[], InteractionStore],
        keys: UserKeys,
        rules: HistoryRules,
        limits: Limits,
        models: Callable[[InteractionStore], list[ModelTrace]] = lambda _: [],
    ) -> None:
        """
        Args:
            store: Opens the store.
            keys: Keys of the pseudonyms.
            rules: How interactions become weights.
            limits: The largest request.
            models: Trained models that may hold a trace of erased users.
        """
        self._models = models
        self._open = store
        self._store: InteractionStore | None = None
        self._keys = keys
        self._rules = rules
        self._limits = limits
        self._check = InteractionChecks(keys, limits)
        self._unpack = Unpacker[InteractionsRequest](InteractionsRequest)

    @property
    def waiting(self) -> int:
        """Number of interactions that wait for their commit; thread-safe, and does not open the store."""
        return 0 if self._store is None else self._store.waiting

    def begin(self) -> None:
        """Take the keys in force: all pseudonyms of a batch are made with the same ones."""
        self._keys.follow(lambda: self._open().database)

    def accept(self, raw: bytes) -> InteractionsJob:
        """Decode a request, and check the interactions that it records.

        Raises:
            RequestError: The request is refused.
        """
        allowed = self._limits.interactions_bytes
        if len(raw) > allowed:
            raise too_large("the request", len(raw), "bytes", "interactions_bytes", allowed)
        request = self._unpack(raw, private=True)
        if isinstance(request, RecordInteractions):
            return InteractionsJob(request, checked=[self._check(raw) for raw in request.interactions])
        try:
            return InteractionsJob(request, self._keys.pseudonyms.of(request.user_id))
        except UserIdError as error:
            raise RequestError(ErrorKind.INVALID_REQUEST, str(error)) from None

    def answer(self, jobs: Sequence[InteractionsJob]) -> list[Answer]:
        """Answer each request; consecutive requests that record share transactions."""
        answers: list[Answer] = []
        recording: list[InteractionsJob] = []
        for job in jobs:
            if isinstance(job.request, RecordInteractions):
                recording.append(job)
                continue
            answers += self._record(recording)
            recording = []
            answers.append(self._answer(job))
        return answers + self._record(recording)

    def _record(self, jobs: Sequence[InteractionsJob]) -> list[Answer]:
        """Record the interactions of some requests, with as many requests in a transaction as fit."""
        try:
            store = self._store = self._open()
        except InteractionError as error:
            return [RequestError(ErrorKind.UNAVAILABLE, str(error))] * len(jobs)
        answers: list[Answer] = []
        group: list[InteractionsJob] = []
        size = 0
        for job in jobs:
            if group and size + len(job.checked) > store.limits.batch:
                answers += _commit(store, group)
                group, size = [], 0
            group.append(job)
            size += len(job.checked)
        return answers + _commit(store, group)

    def _answer(self, job: InteractionsJob) -> Answer:
        try:
            store = self._open()
            match job.request:
                case ReadHistory(limit=limit):
                    return pack(self._history(store, job.pseudonym, limit))
                case ExportUser():
                    return pack(_export(store, job.pseudonym))
                case EraseUser():
                    return pack(self._erase(store, job.pseudonym))
                case VerifyErasure(receipt=receipt):
                    return pack(self._verify(store, job.pseudonym, receipt))
        except InteractionError as error:
            return RequestError(ErrorKind.UNAVAILABLE, str(error))
        except RequestError as error:
            return error
        raise AssertionError(f"no answer to {type(job.request).__name__}")

    def _history(self, store: InteractionStore, pseudonym: str, limit: int) -> UserHistory:
        return history_of(store.window([pseudonym], limit, has_comments=True), self._rules)

    def _erase(self, store: InteractionStore, pseudonym: str) -> ErasureReceipt:
        erased = store.erase(pseudonym)
        erased_at = erased.refused_until - store.limits.tombstone_s
        return receipt_of(self._keys.pseudonyms, pseudonym, erased, erased_at, self._models(store))

    def _verify(self, store: InteractionStore, pseudonym: str, receipt: ErasureReceipt) -> ErasureVerified:
        if not (0 <= receipt.erased_at <= _LATEST_S and 0 <= receipt.refused_until <= _LATEST_S):
            raise RequestError(ErrorKind.INVALID_REQUEST, "$.receipt has a time out of range")
        held = store.export(pseudonym)
        is_valid = is_receipt_of(self._keys.pseudonyms, pseudonym, receipt)
        return ErasureVerified(is_valid, len(held["interactions"]), len(held["seen"]), len(held["answers"]))


def _commit(store: InteractionStore, jobs: Sequence[InteractionsJob]) -> list[Answer]:
    """Record the interactions of some requests; only a request larger than a transaction takes several."""
    batch = [checked for job in jobs for checked in job.checked if isinstance(checked, Interaction)]
    recorded: list[Recorded] = []
    try:
        for start in range(0, len(batch), store.limits.batch):
            recorded += store.record(batch[start : start + store.limits.batch])
    except InteractionError as error:
        return [RequestError(ErrorKind.UNAVAILABLE, str(error))] * len(jobs)
    results = iter(recorded)
    return [
        pack(
            InteractionsRecorded(
                [_result(next(results)) if isinstance(checked, Interaction) else checked for checked in job.checked]
            )
        )
        for job in jobs
    ]


def _result(recorded: Recorded) -> InteractionResult:
    reason = "" if recorded.reason is None else recorded.reason.value
    return InteractionResult(recorded.status, recorded.event_id, reason, recorded.detail)


def _export(store: InteractionStore, pseudonym: str) -> UserExport:
    held = store.export(pseudonym)
    interactions = [{name: value for name, value in row.items() if name != "user"} for row in held["interactions"]]
    answers = msgspec.convert(held["answers"], list[LoggedAnswer])
    return UserExport(pseudonym, interactions, msgspec.convert(held["seen"], list[SeenItem]), answers)


class InteractionChecks:
    """Decodes interactions, and replaces user ids by pseudonyms."""

    def __init__(self, keys: UserKeys, limits: Limits) -> None:
        self._keys = keys
        self._limits = limits
        self._unpack = Unpacker(NewInteraction)

    def __call__(self, raw: msgspec.Raw) -> Interaction | InteractionResult:
        """Decode the JSON of a `NewInteraction`; returns the interaction for the store, or its refusal."""
        allowed = self._limits.interaction_bytes
        if len(raw) > allowed:
            detail = f"the interaction has {len(raw):,} bytes; limits.interaction_bytes allows {allowed:,}"
            return InteractionResult("refused", reason=_TOO_LARGE, detail=detail)
        try:
            new = self._unpack(raw, private=True)
            user = self._keys.pseudonyms.of(new.user_id)
        except RequestError as error:
            return InteractionResult("refused", reason=_MALFORMED, detail=error.text)
        except UserIdError as error:
            return InteractionResult("refused", reason=_INVALID_USER, detail=str(error))
        fields = msgspec.structs.asdict(new)
        del fields["user_id"]
        return Interaction(user=user, **fields)
