"""The service behind a packed model, the calls that it answers, and the models that it asks."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from recserve_server_ext.batching.revision_wait import Answer


class ModelCall(NamedTuple):
    """The model call that a request waits for.

    Attributes:
        model: Name of the model.
        version: Version of the model, such as the runtime fingerprint of an encoder.
        inputs: Distinct, hashable inputs; equal inputs of requests that wait together are sent once.
    """

    model: str
    version: str
    inputs: Sequence[Any]

    @property
    def key(self) -> Hashable:
        """Calls with equal keys can be made together."""
        return self.model, self.version


class WaitingJob(Protocol):
    """The state of one accepted request; times are in nanoseconds.

    Attributes:
        waited_ns: Time spent waiting.
        resolve_ns: Time spent by the batch on decoding and look-ups.
    """

    waited_ns: int
    resolve_ns: int


J = TypeVar("J", bound=WaitingJob)


class Handler(Protocol[J]):
    """The service behind a packed model, such as `RecommendService` and `Embedder`; its steps, in their order.

    Services that derive from it may leave out steps.
    """

    def begin(self) -> None:
        """Begin a batch; called before its requests are accepted."""
        return

    def accept(self, raw: bytes) -> J:
        """Decode and check one packed request; raises RequestError, or NotYetError where it must wait."""
        ...

    def look_up(self, jobs: Sequence[J]) -> None:
        """Look up what is known already, for the whole batch."""
        return

    def pending(self, job: J) -> ModelCall | None:
        """The model call that a request waits for; `None` when it can be answered."""
        return None

    def resume(self, jobs: Sequence[J], call: ModelCall, results: Any, took_ns: int) -> None:
        """Take the results of a model call for all requests that waited for it: one for each distinct input."""
        return

    def together(self, job: J) -> Hashable:
        """What a request is answered from; requests that waited for a model are answered together where it is equal."""
        return None

    def answer(self, jobs: Sequence[J]) -> list[Answer]:
        """Answer requests that wait for nothing: those of one batch, or such that may be answered together."""
        ...


class Call(Protocol):
    """One request as received from Triton.

    Attributes:
        deadline_ns: Moment when the caller gives up, by `time.monotonic_ns`.
    """

    deadline_ns: int

    def read(self) -> bytes:
        """The packed request; raises RequestError when the tensor cannot be read."""
        ...

    def defer(self) -> Callable[[Answer], None]:
        """Leave the call open; returns a function that sends the answer later: once, from any thread."""
        ...

    def is_cancelled(self) -> bool:
        """Whether the caller of a deferred call gave up; costs a round trip to the server process."""
        ...
