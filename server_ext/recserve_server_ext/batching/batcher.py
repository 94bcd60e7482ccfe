"""How a model answers packed requests: what is known at once, the rest from a thread after the encoder answered.

That is what lets the next batch start while this one waits for the encoder, and batches that wait together be encoded
together. A model of which every request goes to the encoder waits for it in its batch instead: what comes meanwhile is
the next batch, and no answer needs a sender of its own. A request for a revision of the catalogue that is not here yet
waits apart, and holds up nobody.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, Protocol, TypeVar

from recserve_client.contract import ErrorKind, RequestError
from recserve_server_ext.batching.encode_queue import Batch, EncodeQueue
from recserve_server_ext.batching.revision_wait import Answer as Answer
from recserve_server_ext.batching.revision_wait import NotYetError, RevisionWaitQueue
from recserve_server_ext.common.arrays import Vectors

#: Texts and the runtime fingerprint of an encoder -> unit vectors [texts, dim] by that encoder; raises
#: RequestError(unavailable) when it cannot be reached.
Encode = Callable[[Sequence[str], str], Vectors]

_log = logging.getLogger(__name__)


class WaitingJob(Protocol):
    """A request on its way to an answer; times are in nanoseconds.

    Attributes:
        waited_ns: Spent waiting.
        resolve_ns: Spent on decoding and look-ups, by the whole batch.
    """

    waited_ns: int
    resolve_ns: int

    @property
    def encoder(self) -> str:
        """Runtime fingerprint of the encoder that its texts go to."""
        ...

    @property
    def needs_encoder(self) -> bool:
        """Whether texts of it must be encoded before it can be answered."""
        ...


J = TypeVar("J", bound=WaitingJob)


class Handler(Protocol[J]):
    """What a packed model does, apart from Triton: see `Recommender` and `Embedder`."""

    def begin(self) -> None:
        """Called before the calls of each batch are accepted."""
        ...

    def accept(self, raw: bytes) -> J:
        """Decode and check one packed request; raises RequestError, or NotYetError where it must wait."""
        ...

    def look_up(self, jobs: Sequence[J]) -> None:
        """Fill in what is known already, for a batch at once."""
        ...

    def encode(self, jobs: Sequence[J], encode: Encode) -> None:
        """Encode what is missing, once for all jobs; they are of one or several batches, and of the same encoder."""
        ...

    def answer(self, jobs: Sequence[J]) -> list[Answer]:
        """The answers of jobs of one batch with nothing missing."""
        ...


class Call(Protocol):
    """One request as Triton handed it over."""

    def read(self) -> bytes:
        """The packed request; raises RequestError when the tensor cannot be read."""
        ...

    def defer(self) -> Callable[[Answer], None]:
        """Leave the call open; what comes back sends its answer later, from any thread, exactly once."""
        ...

    def is_cancelled(self) -> bool:
        """Whether the caller of a deferred call gave up; asking is not free."""
        ...


Pairs = Sequence[tuple[Callable[[Answer], None], J]]


class _Deferred(Generic[J]):
    """A job whose call was left open."""

    __slots__ = ("job", "send")

    def __init__(self, send: Callable[[Answer], None], job: J) -> None:
        self.send = send
        self.job = job

    @property
    def encoder(self) -> str:
        return self.job.encoder


class Batcher(Generic[J]):
    """Runs a handler over batches of calls; no exception leaves it, and every call gets exactly one answer."""

    def __init__(
        self,
        handler: Handler[J],
        encode: Encode,
        *,
        encoding: int = 1,
        max_batch: int = 1,
        room: RevisionWaitQueue | None = None,
        show_waiting: Callable[[int], None] = lambda waiting: None,
    ) -> None:
        """
        Args:
            handler: What to do with the requests.
            encode: The way to the encoder.
            encoding: Calls to `encode` at a time; what comes meanwhile waits. 0 = `run` itself calls it, once for
                the batch, and defers nothing.
            max_batch: Requests that go to the encoder in one call, if they wait together; a larger batch goes alone.
                As many may wait, then the next ones do in `run`.
            room: Where requests wait for their revision; none = no request of this model asks for one.
            show_waiting: Called with the number of requests that wait for the encoder, whenever it changes.
        """
        self._handler = handler
        self._encode = encode
        self._waits = not encoding
        self._queue = EncodeQueue[_Deferred[J]](
            self._run_later, at_once=encoding, max_batch=max_batch, show=show_waiting
        )
        #: Held while requests are accepted: a handler takes one batch at a time.
        self._accepting = threading.RLock()
        self._room = room or RevisionWaitQueue(0.0, 0)
        self._watcher = threading.Thread(target=self._watch, name="wait for revisions", daemon=True)
        if room is not None:
            self._watcher.start()

    def run(self, calls: Sequence[Call]) -> list[Answer | None]:
        """Answer the calls of one batch; None stands for those that are deferred until the encoder has answered."""
        accepted = self._accept([call.read for call in calls])
        self._room.wake()
        answers: list[Answer | None] = [job if isinstance(job, RequestError) else None for job in accepted]
        known: list[tuple[int, J]] = []
        deferred: list[tuple[Callable[[Answer], None], J]] = []
        for number, job in enumerate(accepted):
            if isinstance(job, RequestError):
                continue
            if isinstance(job, NotYetError):
                answers[number] = self._room.admit(calls[number].read(), calls[number], job)
            elif job.needs_encoder and not self._waits:
                deferred.append((calls[number].defer(), job))
            else:
                known.append((number, job))
        self._encode_later(deferred)
        if self._waits and (error := self._encode_all([job for _, job in known if job.needs_encoder])):
            return [error if answer is None else answer for answer in answers]
        for (number, _), answer in zip(known, self._answer([job for _, job in known]), strict=True):
            answers[number] = answer
        return answers

    def close(self) -> None:
        """Wait until every call has its answer; those that wait for a revision are refused."""
        self._room.close()
        if self._watcher.is_alive():
            self._watcher.join()
        self._queue.close()

    def _watch(self) -> None:
        """Answer the calls that wait for a revision when it is here, until the room is closed."""
        is_well = True
        while self._room.wait():
            try:
                self._look_again()
                is_well = True
            except Exception:
                if is_well:  # once, not fifty times a second
                    _log.exception("the catalogue cannot be looked at for the requests that wait for a revision")
                is_well = False
            self._room.expire()

    def _look_again(self) -> None:
        with self._accepting:
            self._handler.begin()
            ready = self._room.ready()
            accepted = self._accept([partial(_same, waiting.raw) for waiting in ready])
        known: list[tuple[Callable[[Answer], None], J]] = []
        deferred: list[tuple[Callable[[Answer], None], J]] = []
        for waiting, job in zip(ready, accepted, strict=True):
            if isinstance(job, RequestError):
                waiting.send(job)
            elif isinstance(job, NotYetError):
                waiting.send(job.refusal(ErrorKind.UNAVAILABLE, "it is older than a moment ago; try again"))
            else:
                (deferred if job.needs_encoder else known).append((waiting.send, job))
        self._encode_later(deferred)
        for (send, _), answer in zip(known, self._answer([job for _, job in known]), strict=True):
            send(answer)

    def _encode_later(self, deferred: Pairs[J]) -> None:
        if deferred:
            self._queue.put(Batch([_Deferred(send, job) for send, job in deferred], time.monotonic_ns()))

    def _accept(self, reads: Sequence[Callable[[], bytes]]) -> Sequence[J | RequestError | NotYetError]:
        """The jobs of the batch, each in the place of its call; one that is refused, or has to wait, is its error."""
        start_ns = time.monotonic_ns()
        with self._accepting:
            try:
                self._handler.begin()
            except Exception as error:
                return [_fault(error)] * len(reads)
            accepted = [self._accept_one(read) for read in reads]
            jobs = [job for job in accepted if not isinstance(job, RequestError | NotYetError)]
            try:
                self._handler.look_up(jobs)
            except Exception as error:
                return [_fault(error)] * len(reads)
        taken_ns = time.monotonic_ns() - start_ns
        for job in jobs:
            job.resolve_ns = taken_ns
        return accepted

    def _accept_one(self, read: Callable[[], bytes]) -> J | RequestError | NotYetError:
        try:
            return self._handler.accept(read())
        except (RequestError, NotYetError) as error:
            return error
        except Exception as error:
            return _fault(error)

    def _run_later(self, batches: list[Batch[_Deferred[J]]], give_back: Callable[[], None]) -> None:
        now_ns = time.monotonic_ns()
        for batch in batches:
            for deferred in batch.jobs:
                deferred.job.waited_ns += now_ns - batch.since_ns
        try:
            error = self._encode_all([deferred.job for batch in batches for deferred in batch.jobs])
        finally:
            give_back()
        for batch in batches:
            jobs = [deferred.job for deferred in batch.jobs]
            answers = self._answer(jobs) if error is None else [error] * len(jobs)
            for deferred, answer in zip(batch.jobs, answers, strict=True):
                deferred.send(answer)

    def _encode_all(self, jobs: list[J]) -> RequestError | None:
        try:
            if jobs:
                self._handler.encode(jobs, self._encode)
        except RequestError as error:
            return error
        except Exception as error:
            return _fault(error)
        return None

    def _answer(self, jobs: list[J]) -> Sequence[Answer]:
        if not jobs:
            return []
        try:
            return self._handler.answer(jobs)
        except RequestError as error:
            # What all of them need is away: asking for each alone would only wait once more for each.
            return [error] * len(jobs)
        except Exception as error:
            if len(jobs) == 1:
                return [_fault(error)]
            # One bad request fails alone: find it.
            return [self._answer([job])[0] for job in jobs]


def _same(raw: bytes) -> bytes:
    return raw


def _fault(error: Exception) -> RequestError:
    """Log a fault of the server under a new id, and the error that names only the id."""
    error_id = uuid.uuid4().hex[:12]
    _log.error("error id %s", error_id, exc_info=error)
    return RequestError(ErrorKind.INTERNAL, f"a fault of the server, error id {error_id}; its log has the details")
