"""How a model answers packed requests: what is known at once, the rest from a thread after other models answered.

That is what lets the next batch start while this one waits for the encoder, and batches that wait together be encoded
together. A model of which every request goes to the encoder waits for it in its batch instead: what comes meanwhile is
the next batch, and no answer needs a sender of its own. A request may wait several times, for one model after the
other. A request for a revision of the catalogue that is not here yet waits apart, and holds up nobody.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from recserve_client.contract import ErrorKind, RequestError, models
from recserve_server_ext.batching.call_queue import Batch, CallQueue
from recserve_server_ext.batching.revision_wait import Answer as Answer
from recserve_server_ext.batching.revision_wait import NotYetError, RevisionWaitQueue
from recserve_server_ext.common.arrays import Vectors

#: Texts and the runtime fingerprint of an encoder -> unit vectors [texts, dim] by that encoder; raises
#: RequestError(unavailable) when it cannot be reached.
Encode = Callable[[Sequence[str], str], Vectors]
#: Distinct inputs and the version of a model -> a result for each; raises RequestError(unavailable).
CallModel = Callable[[Sequence[Any], str], Any]


class ModelCall(NamedTuple):
    """What a request waits for.

    Attributes:
        model: Name of the model.
        version: Which one of that name, such as the runtime fingerprint of an encoder.
        inputs: Distinct and hashable; those of all requests that wait together are worked out once each.
    """

    model: str
    version: str
    inputs: Sequence[Any]


_log = logging.getLogger(__name__)


class WaitingJob(Protocol):
    """A request on its way to an answer; times are in nanoseconds.

    Attributes:
        waited_ns: Spent waiting.
        resolve_ns: Spent on decoding and look-ups, by the whole batch.
    """

    waited_ns: int
    resolve_ns: int


J = TypeVar("J", bound=WaitingJob)


class Handler(Protocol[J]):
    """What a packed model does, apart from Triton: see `RecommendService` and `Embedder`."""

    def begin(self) -> None:
        """Called before the calls of each batch are accepted."""
        ...

    def accept(self, raw: bytes) -> J:
        """Decode and check one packed request; raises RequestError, or NotYetError where it must wait."""
        ...

    def look_up(self, jobs: Sequence[J]) -> None:
        """Fill in what is known already, for a batch at once."""
        ...

    def pending(self, job: J) -> ModelCall | None:
        """The model that a request waits for now; `None` when it can be answered."""
        ...

    def resume(self, jobs: Sequence[J], call: ModelCall, results: Any, took_ns: int) -> None:
        """Go on with requests, of one or several batches, that waited for the same model.

        Args:
            jobs: The requests.
            call: With the distinct inputs of all of them.
            results: One for each input.
            took_ns: Time of the call, in nanoseconds.
        """
        ...

    def answer(self, jobs: Sequence[J]) -> list[Answer]:
        """The answers of requests of one batch that wait for nothing."""
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


class _Deferred(Generic[J]):
    """A job whose call was left open, and what it waits for."""

    __slots__ = ("call", "job", "send")

    def __init__(self, send: Callable[[Answer], None], job: J, call: ModelCall) -> None:
        self.send = send
        self.job = job
        self.call = call

    @property
    def key(self) -> Hashable:
        """Those of equal keys go to the model together."""
        return self.call.model, self.call.version


class Batcher(Generic[J]):
    """Runs a handler over batches of calls; no exception leaves it, and every call gets exactly one answer."""

    def __init__(
        self,
        handler: Handler[J],
        call: Mapping[str, CallModel],
        *,
        at_once: int = 1,
        max_batch: int = 1,
        room: RevisionWaitQueue | None = None,
        show_waiting: Callable[[int], None] = lambda waiting: None,
    ) -> None:
        """
        Args:
            handler: What to do with the requests.
            call: By the name of a model the way to it.
            at_once: Calls to each model at a time; what comes meanwhile waits. With 0 `run` itself makes the calls,
                once for the batch, and defers nothing.
            max_batch: Requests that go to a model in one call, if they wait together; a larger batch goes alone. As
                many may wait, then the next ones do in `run`.
            room: Where requests wait for their revision; `None` when no request of this model asks for one.
            show_waiting: Called with the number of requests that wait for the encoder, whenever it changes.
        """
        self._handler = handler
        self._call = call
        self._waits = not at_once
        self._queues: dict[str, CallQueue[_Deferred[J]]] = {}
        for model in call if at_once else ():
            show = show_waiting if model == models.ENCODER else _show_nothing
            self._queues[model] = CallQueue(self._run_later, at_once=at_once, max_batch=max_batch, show=show)
        self._deferred = 0
        self._changed = threading.Condition()
        #: Held while requests are accepted: a handler takes one batch at a time.
        self._accepting = threading.RLock()
        self._room = room or RevisionWaitQueue(0.0, 0)
        self._watcher = threading.Thread(target=self._watch, name="wait for revisions", daemon=True)
        if room is not None:
            self._watcher.start()

    def run(self, calls: Sequence[Call]) -> list[Answer | None]:
        """Answer the calls of one batch; `None` stands for those that are deferred until a model has answered."""
        accepted = self._accept([call.read for call in calls])
        self._room.wake()
        answers: list[Answer | None] = [job if isinstance(job, RequestError) else None for job in accepted]
        known: list[tuple[int, J]] = []
        deferred: list[_Deferred[J]] = []
        for number, job in enumerate(accepted):
            if isinstance(job, RequestError):
                continue
            if isinstance(job, NotYetError):
                answers[number] = self._room.admit(calls[number].read(), calls[number], job)
            elif not self._waits and (pending := self._handler.pending(job)) is not None:
                deferred.append(_Deferred(calls[number].defer(), job, pending))
            else:
                known.append((number, job))
        self._call_later(deferred)
        if self._waits and (error := self._call_all([job for _, job in known])):
            return [error if answer is None else answer for answer in answers]
        for (number, _), answer in zip(known, self._answer([job for _, job in known]), strict=True):
            answers[number] = answer
        return answers

    def close(self) -> None:
        """Wait until every call has its answer; those that wait for a revision are refused."""
        self._room.close()
        if self._watcher.is_alive():
            self._watcher.join()
        with self._changed:
            # What one model answered may go to another one.
            self._changed.wait_for(lambda: not self._deferred)
        for queue in self._queues.values():
            queue.close()

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
        deferred: list[_Deferred[J]] = []
        for waiting, job in zip(ready, accepted, strict=True):
            if isinstance(job, RequestError):
                waiting.send(job)
            elif isinstance(job, NotYetError):
                waiting.send(job.refusal(ErrorKind.UNAVAILABLE, "it is older than a moment ago; try again"))
            elif (pending := self._handler.pending(job)) is not None:
                deferred.append(_Deferred(waiting.send, job, pending))
            else:
                known.append((waiting.send, job))
        self._call_later(deferred)
        for (send, _), answer in zip(known, self._answer([job for _, job in known]), strict=True):
            send(answer)

    def _call_later(self, deferred: Sequence[_Deferred[J]], *, wait: bool = True) -> None:
        """Put jobs in the queues of the models that they wait for.

        Args:
            deferred: The jobs.
            wait: Whether to wait while there is no room; what was let in before does not.
        """
        if not deferred:
            return
        self._count(len(deferred))
        groups: dict[Hashable, list[_Deferred[J]]] = defaultdict(list)
        for one in deferred:
            groups[one.key].append(one)
        for group in groups.values():
            self._queues[group[0].call.model].put(Batch(group, time.monotonic_ns()), wait=wait)

    def _count(self, more: int) -> None:
        with self._changed:
            self._deferred += more
            self._changed.notify_all()

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
        together = [deferred for batch in batches for deferred in batch.jobs]
        try:
            try:
                error = self._call_model([of.job for of in together], [of.call for of in together])
            finally:
                give_back()
            self._go_on(batches, error)
        finally:
            self._count(-len(together))

    def _go_on(self, batches: Sequence[Batch[_Deferred[J]]], error: RequestError | None) -> None:
        """Answer what a model was called for, or let it wait for the next one."""
        again: list[_Deferred[J]] = []
        for batch in batches:
            done: list[_Deferred[J]] = []
            for deferred in batch.jobs:
                pending = None if error is not None else self._handler.pending(deferred.job)
                (done if pending is None else again).append(
                    deferred if pending is None else _Deferred(deferred.send, deferred.job, pending)
                )
            jobs = [deferred.job for deferred in done]
            answers = self._answer(jobs) if error is None else [error] * len(jobs)
            for deferred, answer in zip(done, answers, strict=True):
                deferred.send(answer)
        # They were let in once; waiting for room here could wait for this very thread.
        self._call_later(again, wait=False)

    def _call_all(self, jobs: list[J]) -> RequestError | None:
        """Make all calls that jobs wait for, one model after the other."""
        waiting = [(job, call) for job in jobs if (call := self._handler.pending(job)) is not None]
        while waiting:
            groups: dict[Hashable, list[tuple[J, ModelCall]]] = defaultdict(list)
            for job, call in waiting:
                groups[call.model, call.version].append((job, call))
            for group in groups.values():
                if error := self._call_model([job for job, _ in group], [call for _, call in group]):
                    return error
            waiting = [(job, call) for job, _ in waiting if (call := self._handler.pending(job)) is not None]
        return None

    def _call_model(self, jobs: list[J], calls: Sequence[ModelCall]) -> RequestError | None:
        """Make the calls of jobs that wait for the same model as one, and let them go on."""
        model, version, _ = calls[0]
        call = ModelCall(model, version, list(dict.fromkeys(found for call in calls for found in call.inputs)))
        start_ns = time.monotonic_ns()
        try:
            results = self._call[model](call.inputs, version)
            self._handler.resume(jobs, call, results, time.monotonic_ns() - start_ns)
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


def _show_nothing(waiting: int) -> None:
    """Nobody looks at this number."""


def _fault(error: Exception) -> RequestError:
    """Log a fault of the server under a new id, and the error that names only the id."""
    error_id = uuid.uuid4().hex[:12]
    _log.error("error id %s", error_id, exc_info=error)
    return RequestError(ErrorKind.INTERNAL, f"a fault of the server, error id {error_id}; its log has the details")
