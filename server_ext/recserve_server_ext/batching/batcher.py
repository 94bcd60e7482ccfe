"""Answers batches of packed requests: at once, or deferred until other models have answered.

Deferred requests are answered from a thread. So the next batch can start while this one waits for the encoder, and
batches that wait together are encoded together. A model whose every request needs the encoder waits for it within the
batch instead: requests that come meanwhile form the next batch. A request may wait for several models, one after the
other. Requests for a later revision of the catalogue wait in a queue of their own, and hold up no other request.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, Generic, TypeVar

from recserve_client.contract import ErrorKind, RequestError
from recserve_server_ext.batching.admission import OWN_QUEUE, Admission, waited_share
from recserve_server_ext.batching.call_queue import Batch, CallQueue
from recserve_server_ext.batching.handler import Call as Call
from recserve_server_ext.batching.handler import Handler as Handler
from recserve_server_ext.batching.handler import ModelCall as ModelCall
from recserve_server_ext.batching.handler import WaitingJob
from recserve_server_ext.batching.revision_wait import Answer as Answer
from recserve_server_ext.batching.revision_wait import NotYetError, RevisionWaitQueue
from recserve_server_ext.common.arrays import Vectors

#: Encodes texts with the encoder of a runtime fingerprint: unit vectors [texts, dim]. Raises RequestError(unavailable)
#: when the encoder cannot be reached.
Encode = Callable[[Sequence[str], str], Vectors]
#: Name of the queue for the work of the service itself.
OWN: Final = "own"
#: Calls a model of a version with distinct inputs: a result for each. Raises RequestError(unavailable).
CallModel = Callable[[Sequence[Any], str], Any]
_log = logging.getLogger(__name__)


J = TypeVar("J", bound=WaitingJob)


class _Deferred(Generic[J]):
    """A job whose call was left open, and the model call that it waits for."""

    __slots__ = ("call", "deadline_ns", "job", "send")

    def __init__(self, send: Callable[[Answer], None], job: J, call: ModelCall, deadline_ns: int) -> None:
        self.send = send
        self.job = job
        self.call = call
        self.deadline_ns = deadline_ns

    @property
    def key(self) -> Hashable:
        """Jobs with equal keys go to the model together."""
        return self.call.key


class Batcher(Generic[J]):
    """Runs a handler over batches of calls. It raises nothing, and every call gets exactly one answer."""

    def __init__(
        self,
        handler: Handler[J],
        call: Mapping[str, CallModel],
        *,
        at_once: int = 1,
        max_batch: int = 1,
        in_run: Collection[str] = (),
        run_batch: int = 0,
        revision_queue: RevisionWaitQueue | None = None,
    ) -> None:
        """
        Args:
            handler: The service that answers the requests.
            call: How to call each model, by name.
            at_once: Concurrent calls to each model; further requests wait. With 0 `run` itself makes the calls, once
                for the batch, and defers nothing.
            max_batch: Most requests in one call to a model; a larger batch goes alone.
            in_run: Models that `run` itself calls, once for the batch, since they answer in less time than it takes to
                defer. A request that has waited for another model is deferred for these, too.
            run_batch: Most calls that the handler answers together, of those that Triton hands over; what there is no
                time for is refused. 0 for all of them, without an admission.
            revision_queue: Queue of requests that wait for a revision; `None` where no request asks for one.
        """
        self._handler = handler
        self._call = call
        self._in_run = frozenset(in_run if at_once else call)
        self._queues: dict[str, CallQueue[_Deferred[J]]] = {}
        #: What may wait for each model, and for `run` itself.
        self.admissions = {model: Admission(model) for model in (call if at_once else ())}
        if run_batch:
            self.admissions[OWN] = Admission(OWN, OWN_QUEUE)
        self._run_batch = run_batch
        for model in call if at_once else ():
            self._queues[model] = CallQueue(self._run_later, at_once=at_once, max_batch=max_batch)
        self._deferred_count = 0
        self._changed = threading.Condition()
        # Held while requests are accepted: a handler takes one batch at a time.
        self._accepting = threading.RLock()
        self._revision_queue = revision_queue or RevisionWaitQueue(0.0, 0)
        self._watcher = threading.Thread(target=self._watch_revisions, name="wait for revisions", daemon=True)
        if revision_queue is not None:
            self._watcher.start()

    def run(self, calls: Sequence[Call]) -> list[Answer | None]:
        """Answer or refuse the calls of one batch; `None` for calls that are deferred.

        Triton hands over all that waits, so the number of calls says how long its queue was.
        """
        if not self._run_batch:
            return self._run(calls)
        admission, start_ns = self.admissions[OWN], time.monotonic_ns()
        answers: list[Answer | None] = [admission.admit(1, call.deadline_ns) for call in calls]
        admitted = [number for number, refusal in enumerate(answers) if refusal is None]
        for first in range(0, len(admitted), self._run_batch):
            numbers = admitted[first : first + self._run_batch]
            for number, answer in zip(numbers, self._run([calls[number] for number in numbers]), strict=True):
                answers[number] = answer
        if admitted:
            took_ns = time.monotonic_ns() - start_ns
            # The last one waits for all others; none waits for itself.
            others_ns = took_ns - took_ns // len(admitted)
            waited = max(waited_share(start_ns, start_ns + others_ns, calls[number].deadline_ns) for number in admitted)
            admission.measure(len(admitted), took_ns, waited)
        for _ in admitted:
            admission.leave(1)
        return answers

    def _run(self, calls: Sequence[Call]) -> list[Answer | None]:
        """Answer the calls of one batch now; `None` for calls that are deferred."""
        accepted = self._accept([call.read for call in calls])
        self._revision_queue.wake()
        answerable = self._defer(accepted, lambda number: calls[number].defer(), [call.deadline_ns for call in calls])
        answers: list[Answer | None] = [job if isinstance(job, RequestError) else None for job in accepted]
        for number, job in enumerate(accepted):
            if isinstance(job, NotYetError):
                answers[number] = self._revision_queue.admit(calls[number].read(), calls[number], job)
        for number, answer in self._answered(answerable):
            answers[number] = answer
        return answers

    def waiting(self, model: str) -> int:
        """Number of requests that wait for a model; any thread may ask."""
        queue = self._queues.get(model)
        return 0 if queue is None else queue.waiting

    def close(self) -> None:
        """Wait until every call has its answer; calls that wait for a revision are refused."""
        self._revision_queue.close()
        if self._watcher.is_alive():
            self._watcher.join()
        with self._changed:
            # A job may go from one model's queue to another one's.
            self._changed.wait_for(lambda: not self._deferred_count)
        for queue in self._queues.values():
            queue.close()

    def _watch_revisions(self) -> None:
        """Answer calls when the revision that they wait for is served, until the queue is closed."""
        is_failing = False
        while self._revision_queue.wait():
            try:
                self._answer_ready()
                is_failing = False
            except Exception:
                if not is_failing:  # once, not fifty times a second
                    _log.exception("the catalogue cannot be read for the requests that wait for a revision")
                is_failing = True
            self._revision_queue.expire()

    def _answer_ready(self) -> None:
        """Answer the calls whose revision is served by now."""
        with self._accepting:
            self._handler.begin()
            ready = self._revision_queue.ready()
            accepted = self._accept([partial(_identity, waiting.raw) for waiting in ready])
        deadlines = [waiting.caller.deadline_ns for waiting in ready]
        answerable = self._defer(accepted, lambda number: ready[number].send, deadlines)
        for waiting, job in zip(ready, accepted, strict=True):
            if isinstance(job, RequestError):
                waiting.send(job)
            elif isinstance(job, NotYetError):
                waiting.send(
                    job.refusal(ErrorKind.UNAVAILABLE, "the catalogue went back to an older revision; try again")
                )
        for number, answer in self._answered(answerable):
            ready[number].send(answer)

    def _answered(self, answerable: list[tuple[int, J, bool]]) -> Iterator[tuple[int, Answer]]:
        """The answers to jobs that are not deferred, with their positions; calls the models that they wait for."""
        waiting = [job for _, job, is_waiting in answerable if is_waiting]
        if waiting and (error := self._call_all(waiting)):
            yield from ((number, error) for number, _, is_waiting in answerable if is_waiting)
            answerable = [one for one in answerable if not one[2]]
        answers = self._answer([job for _, job, _ in answerable])
        yield from ((number, answer) for (number, *_), answer in zip(answerable, answers, strict=True))

    def _defer(
        self,
        accepted: list[J | RequestError | NotYetError],
        sender: Callable[[int], Callable[[Answer], None]],
        deadlines_ns: Sequence[int],
    ) -> list[tuple[int, J, bool]]:
        """Queue jobs that wait for a model, with the sender of their position.

        Jobs that the model has no time for are replaced by their refusals.

        Returns:
            The other jobs: their positions, they, and whether they wait for a model that `run` itself calls.
        """
        answerable: list[tuple[int, J, bool]] = []
        deferred: list[_Deferred[J]] = []
        for number, job in enumerate(accepted):
            if isinstance(job, RequestError | NotYetError):
                continue
            pending = self._handler.pending(job)
            if pending is not None and pending.model not in self._in_run:
                if refusal := self.admissions[pending.model].admit(len(pending.inputs), deadlines_ns[number]):
                    accepted[number] = refusal
                else:
                    deferred.append(_Deferred(sender(number), job, pending, deadlines_ns[number]))
            else:
                answerable.append((number, job, pending is not None))
        self._call_later(deferred)
        return answerable

    def _call_later(self, deferred: Sequence[_Deferred[J]]) -> None:
        """Put admitted jobs in the queues of their models."""
        if not deferred:
            return
        self._count(len(deferred))
        groups: dict[Hashable, list[_Deferred[J]]] = defaultdict(list)
        for job in deferred:
            groups[job.key].append(job)
        for group in groups.values():
            self._queues[group[0].call.model].put(Batch(group, time.monotonic_ns()))

    def _count(self, more: int) -> None:
        with self._changed:
            self._deferred_count += more
            self._changed.notify_all()

    def _accept(self, reads: Sequence[Callable[[], bytes]]) -> list[J | RequestError | NotYetError]:
        """[calls] the job of each call, or the error of one that is refused or must wait for a revision."""
        start_ns = time.monotonic_ns()
        with self._accepting:
            try:
                self._handler.begin()
            except RequestError as error:
                return [error] * len(reads)
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

    def _run_later(self, batches: list[Batch[_Deferred[J]]], release: Callable[[], None]) -> None:
        """Call a model for batches that waited together, and go on with their jobs; drops what has expired."""
        now_ns = time.monotonic_ns()
        taken = [deferred for batch in batches for deferred in batch.jobs]
        admission = self.admissions[taken[0].call.model]
        for batch in batches:
            for deferred in batch.jobs:
                deferred.job.waited_ns += now_ns - batch.since_ns
        live = [Batch([one for one in batch.jobs if one.deadline_ns > now_ns], batch.since_ns) for batch in batches]
        waiting = [deferred for batch in live for deferred in batch.jobs]
        try:
            try:
                error = (
                    self._call_model([deferred.job for deferred in waiting], [deferred.call for deferred in waiting])
                    if waiting
                    else None
                )
            finally:
                release()
                for deferred in taken:
                    admission.leave(len(deferred.call.inputs))
            if waiting and error is None:
                size = sum(len(deferred.call.inputs) for deferred in waiting)
                waited = max(
                    waited_share(batch.since_ns, now_ns, one.deadline_ns) for batch in live for one in batch.jobs
                )
                admission.measure(size, time.monotonic_ns() - now_ns, waited)
            for deferred in taken:
                if deferred.deadline_ns <= now_ns:
                    deferred.send(admission.expire())
            self._go_on(live, error)
        finally:
            self._count(-len(taken))

    def _go_on(self, batches: Sequence[Batch[_Deferred[J]]], error: RequestError | None) -> None:
        """Answer the jobs that a model was called for, together where they may be, or queue them for the next model."""
        again: list[_Deferred[J]] = []
        done: dict[Hashable, list[_Deferred[J]]] = defaultdict(list)
        for deferred in (one for batch in batches for one in batch.jobs):
            pending = None if error is not None else self._handler.pending(deferred.job)
            if pending is None:
                done[self._handler.together(deferred.job)].append(deferred)
            else:
                again.append(_Deferred(deferred.send, deferred.job, pending, deferred.deadline_ns))
        for group in done.values():
            jobs = [deferred.job for deferred in group]
            answers = self._answer(jobs) if error is None else [error] * len(jobs)
            for deferred, answer in zip(group, answers, strict=True):
                deferred.send(answer)
        for deferred in again:  # admitted before
            self.admissions[deferred.call.model].enter(len(deferred.call.inputs))
        self._call_later(again)

    def _call_all(self, jobs: list[J]) -> RequestError | None:
        """Make all model calls that jobs wait for, one model after the other."""
        waiting = [(job, call) for job in jobs if (call := self._handler.pending(job)) is not None]
        while waiting:
            groups: dict[Hashable, list[tuple[J, ModelCall]]] = defaultdict(list)
            for job, call in waiting:
                groups[call.key].append((job, call))
            for group in groups.values():
                if error := self._call_model([job for job, _ in group], [call for _, call in group]):
                    return error
            waiting = [(job, call) for job, _ in waiting if (call := self._handler.pending(job)) is not None]
        return None

    def _call_model(self, jobs: list[J], calls: Sequence[ModelCall]) -> RequestError | None:
        """Make one call for jobs that wait for the same model, and give them the results."""
        model, version, _ = calls[0]
        call = ModelCall(model, version, list(dict.fromkeys(value for call in calls for value in call.inputs)))
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
            # Something that all of them need is unavailable: retrying each alone would only wait again.
            return [error] * len(jobs)
        except Exception as error:
            if len(jobs) == 1:
                return [_fault(error)]
            # One bad request fails alone: find it.
            return [self._answer([job])[0] for job in jobs]


def _identity(raw: bytes) -> bytes:
    return raw


def _fault(error: Exception) -> RequestError:
    """Log a fault of the server under a new error id; the returned error contains only the id."""
    error_id = uuid.uuid4().hex[:12]
    _log.error("error id %s", error_id, exc_info=error)
    return RequestError(ErrorKind.INTERNAL, f"a fault of the server, error id {error_id}; its log has the details")
