"""Requests to the model `interactions` -> the interaction store. No Triton here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

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
from recserve_server_ext.batching.batcher import Answer, ModelCall
from recserve_server_ext.batching.request_checks import too_large
from recserve_server_ext.common.errors import InteractionError, UserIdError
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.config.server import Limits
from recserve_server_ext.history.user_histories import history_of
from recserve_server_ext.interactions.erasure import is_receipt_of, receipt_of
from recserve_server_ext.interactions.interaction import Interaction, Recorded
from recserve_server_ext.interactions.keys import UserKeys
from recserve_server_ext.interactions.store import InteractionStore

#: Far beyond any time that a receipt of ours can have, and well within what can be rounded to microseconds.
_LATEST_S: Final = 1e11


class InteractionsJob(Struct):
    """One accepted request on its way to an answer; times are in nanoseconds.

    Attributes:
        request: As it was sent.
        pseudonym: Of the user it is about; empty for one that records.
        checked: Interactions to record, and the refusals of others, in their order.
        waited_ns: Time spent waiting.
        resolve_ns: Time of the batch's decoding.
    """

    request: InteractionsRequest
    pseudonym: str = ""
    checked: list[Interaction | InteractionResult] = []
    waited_ns: int = 0
    resolve_ns: int = 0


class InteractionService:
    """Records, reads and erases what users did.

    What the requests of one batch record goes into shared transactions, so that callers share the fsyncs. Requests of
    a batch are answered in their order. User ids become pseudonyms in `accept`; no message holds one.
    """

    def __init__(
        self,
        store: Callable[[], InteractionStore],
        keys: UserKeys,
        rules: HistoryRules,
        limits: Limits,
    ) -> None:
        """
        Args:
            store: Opens the interaction store.
            keys: That pseudonyms are made with.
            rules: For `history`.
            limits: The largest request.
        """
        self._open = store
        self._store: InteractionStore | None = None
        self._keys = keys
        self._rules = rules
        self._limits = limits
        self._check = InteractionChecks(keys, limits)
        self._unpack = Unpacker[InteractionsRequest](InteractionsRequest)

    @property
    def waiting(self) -> int:
        """Interactions that wait for their commit; any thread may ask, and no store is opened for it."""
        return 0 if self._store is None else self._store.waiting

    def begin(self) -> None:
        """Take the keys in force, so that all requests of a batch have pseudonyms by the same ones."""
        self._keys.follow(lambda: self._open().database)

    def accept(self, raw: bytes) -> InteractionsJob:
        """Decode a request, and check the interactions of one that records.

        Raises:
            RequestError: It is refused.
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

    def look_up(self, jobs: Sequence[InteractionsJob]) -> None:
        """Nothing to look up."""

    def pending(self, job: InteractionsJob) -> None:
        """Nothing to wait for."""

    def resume(self, jobs: Sequence[InteractionsJob], call: ModelCall, results: Any, took_ns: int) -> None:
        """Never called: nothing waits."""

    def answer(self, jobs: Sequence[InteractionsJob]) -> list[Answer]:
        """Answer each request; neighbours that record share transactions."""
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
        """Record what some requests brought, as many of them in one transaction as fit."""
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
        return history_of(store.window([pseudonym], limit), self._rules)

    def _erase(self, store: InteractionStore, pseudonym: str) -> ErasureReceipt:
        erased = store.erase(pseudonym)
        return receipt_of(self._keys.pseudonyms, pseudonym, erased, erased.refused_until - store.limits.tombstone_s)

    def _verify(self, store: InteractionStore, pseudonym: str, receipt: ErasureReceipt) -> ErasureVerified:
        if not (0 <= receipt.erased_at <= _LATEST_S and 0 <= receipt.refused_until <= _LATEST_S):
            raise RequestError(ErrorKind.INVALID_REQUEST, "$.receipt has a time that no receipt can have")
        held = store.export(pseudonym)
        is_valid = is_receipt_of(self._keys.pseudonyms, pseudonym, receipt)
        return ErasureVerified(is_valid, len(held["interactions"]), len(held["seen"]), len(held["answers"]))


def _commit(store: InteractionStore, jobs: Sequence[InteractionsJob]) -> list[Answer]:
    """Record what these requests brought; only one that is larger than a transaction takes several."""
    batch = [found for job in jobs for found in job.checked if isinstance(found, Interaction)]
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
                [_result(next(results)) if isinstance(found, Interaction) else found for found in job.checked]
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


#: Reasons beside those of `recserve_server_ext.interactions.interaction.Refused`.
MALFORMED: Final = "malformed"


TOO_LARGE: Final = "too_large"


_USER: Final = "invalid_user"


class InteractionChecks:
    """Decodes interactions and puts pseudonyms in place of the user ids."""

    def __init__(self, keys: UserKeys, limits: Limits) -> None:
        self._keys = keys
        self._limits = limits
        self._unpack = Unpacker(NewInteraction)

    def __call__(self, raw: msgspec.Raw) -> Interaction | InteractionResult:
        """The interaction in JSON of `NewInteraction`, ready for the store, or its refusal."""
        allowed = self._limits.interaction_bytes
        if len(raw) > allowed:
            detail = f"the interaction has {len(raw):,} bytes; limits.interaction_bytes allows {allowed:,}"
            return InteractionResult("refused", reason=TOO_LARGE, detail=detail)
        try:
            new = self._unpack(raw, private=True)
            user = self._keys.pseudonyms.of(new.user_id)
        except RequestError as error:
            return InteractionResult("refused", reason=MALFORMED, detail=error.text)
        except UserIdError as error:
            return InteractionResult("refused", reason=_USER, detail=str(error))
        fields = msgspec.structs.asdict(new)
        del fields["user_id"]
        return Interaction(user=user, **fields)
