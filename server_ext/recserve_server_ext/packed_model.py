"""How a model answers packed requests: what is known at once, the rest from a thread after the encoder answered.

That is what lets the next batch start while this one waits for the encoder.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from recserve_client.contract import ErrorKind, RequestError

Vectors = NDArray[np.float32]
Answer = bytes | RequestError
#: Texts -> unit vectors [texts, dim]; raises RequestError(unavailable) when the encoder cannot be reached.
Encode = Callable[[Sequence[str]], Vectors]

_log = logging.getLogger(__name__)


class WaitingJob(Protocol):
    """A request on its way to an answer."""

    waited_ns: int

    @property
    def needs_encoder(self) -> bool:
        """Whether texts of it must be encoded before it can be answered."""
        ...


J = TypeVar("J", bound=WaitingJob)


class Handler(Protocol[J]):
    """What a packed model does, apart from Triton: see `Recommender` and `Embedder`."""

    def accept(self, raws: Sequence[bytes | RequestError], received_ns: int) -> list[J | RequestError]:
        """Decode, check, look up."""
        ...

    def encode(self, jobs: Sequence[J], encode: Encode) -> None:
        """Encode what is missing, once for all jobs."""
        ...

    def answer(self, jobs: Sequence[J]) -> list[Answer]:
        """The answers of jobs with nothing missing."""
        ...


class Call(Protocol):
    """One request as Triton handed it over."""

    def read(self) -> bytes:
        """The packed request; raises RequestError when the tensor cannot be read or the caller gave up."""
        ...

    def reply(self, answer: Answer) -> None:
        """Send the answer; called exactly once."""
        ...


class PackedModel(Generic[J]):
    """Runs a handler over batches of calls; no exception leaves it, and every call gets exactly one reply."""

    def __init__(self, handler: Handler[J], encode: Encode, *, waiting: int) -> None:
        """
        Args:
            handler: What to do with the requests.
            encode: The way to the encoder.
            waiting: Batches that may wait for the encoder; with that many, the next one waits in `run`.
        """
        self._handler = handler
        self._encode = encode
        self._places = threading.BoundedSemaphore(waiting)
        self._threads = ThreadPoolExecutor(waiting, thread_name_prefix="encode")

    def run(self, calls: Sequence[Call]) -> None:
        """Answer the calls of one batch, now or later."""
        received_ns = time.monotonic_ns()
        known: list[tuple[Call, J]] = []
        others: list[tuple[Call, J]] = []
        for call, job in zip(calls, self._accept(calls, received_ns), strict=True):
            if isinstance(job, RequestError):
                call.reply(job)
            else:
                (others if job.needs_encoder else known).append((call, job))
        if others:
            self._places.acquire()
            self._threads.submit(self._run_later, others, time.monotonic_ns())
        self._answer(known)

    def close(self) -> None:
        """Wait until every call has its reply."""
        self._threads.shutdown(wait=True)

    def _accept(self, calls: Sequence[Call], received_ns: int) -> Sequence[J | RequestError]:
        try:
            return self._handler.accept([_read(call) for call in calls], received_ns)
        except Exception as error:
            return [_fault(error)] * len(calls)

    def _run_later(self, pairs: list[tuple[Call, J]], submitted_ns: int) -> None:
        try:
            for _, job in pairs:
                job.waited_ns += time.monotonic_ns() - submitted_ns
            try:
                self._handler.encode([job for _, job in pairs], self._encode)
            except RequestError as error:
                _reply_all(pairs, error)
            except Exception as error:
                _reply_all(pairs, _fault(error))
            else:
                self._answer(pairs)
        finally:
            self._places.release()

    def _answer(self, pairs: list[tuple[Call, J]]) -> None:
        if not pairs:
            return
        try:
            answers = self._handler.answer([job for _, job in pairs])
        except Exception as error:
            if len(pairs) == 1:
                _reply_all(pairs, _fault(error))
            else:  # One bad request fails alone: find it.
                for pair in pairs:
                    self._answer([pair])
            return
        for (call, _), answer in zip(pairs, answers, strict=True):
            call.reply(answer)


def _read(call: Call) -> bytes | RequestError:
    try:
        return call.read()
    except RequestError as error:
        return error


def _reply_all(pairs: Sequence[tuple[Call, WaitingJob]], answer: Answer) -> None:
    for call, _ in pairs:
        call.reply(answer)


def _fault(error: Exception) -> RequestError:
    """Log a fault of the server under a new id, and the error that names only the id."""
    error_id = uuid.uuid4().hex[:12]
    _log.error("error id %s", error_id, exc_info=error)
    return RequestError(ErrorKind.INTERNAL, f"a fault of the server, error id {error_id}; its log has the details")
