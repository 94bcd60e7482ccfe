"""The seam to Triton's Python backend: tensors, errors and calls to the encoder.

Importable only inside a Python model, where `triton_python_backend_utils` exists.
"""

from __future__ import annotations

import gc
import json
import logging
import struct
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec
import numpy as np
import triton_python_backend_utils as pb

from recserve_client.contract import ErrorKind, RequestError
from recserve_client.contract import models as names
from recserve_server_ext.access.door import Door, KeyRing, bearer
from recserve_server_ext.batching.admission import NO_DEADLINE
from recserve_server_ext.batching.batcher import Answer, Batcher
from recserve_server_ext.common.arrays import Ints, Vectors
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.config.server import MODEL_SETTINGS, ModelSettings
from recserve_server_ext.encoder.loaded import LoadedEncoder, ServedEncoders
from recserve_server_ext.encoder.manifest import Role
from recserve_server_ext.encoder.padding import padded, padded_widths, plan_calls
from recserve_server_ext.encoder.tokenizer import TextTokenizer, means_of_parts, most_parts
from recserve_server_ext.services.refusals import Refusals
from recserve_server_ext.triton.metrics.models import AdmissionMetrics, release_metrics

#: gRPC status -> name of Triton's code, where they differ. Not the code itself: the backend adds `TritonError` to its
#: module only after a model is imported.
_CODE_NAMES = {"INVALID_ARGUMENT": "INVALID_ARG"}
_MICROSECOND_NS: Final = 1000


def model_settings(args: dict[str, str]) -> ModelSettings:
    """The launcher's settings in the arguments of `initialize`; also starts logging to Triton's log."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    file = Path(args["model_repository"]) / args["model_version"] / MODEL_SETTINGS
    return msgspec.json.decode(file.read_bytes(), type=ModelSettings)


def door_of(args: dict[str, str], settings: ModelSettings, model: str) -> Door:
    """The door of a model, by the arguments of its `initialize` and its name without a fingerprint."""
    ring = KeyRing(Path(settings.api_keys)) if settings.api_keys else None
    # Triton makes these requests itself, without a key, before it lets anybody reach the model.
    warmups = sum(max(1, sample["count"]) for sample in json.loads(args["model_config"])["model_warmup"])
    return Door(model, ring, settings.own_key, warmups)


def let_in(door: Door, request: Any) -> None:
    """Let a request in; raises RequestError as `Door.check`."""
    if not door.is_open:
        door.check(request.parameters(), partial(read_packed, request))


def settle_memory() -> None:
    """Keep the garbage collector from all that is loaded so far, and turn it on, to run seldom; call after loading.

    Requests make no cycles, so there is next to nothing to collect, and looking cost 20 to 40 us a user. Nor does the
    process look through all that when it ends.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    gc.enable()


def read_packed(request: Any, name: str = names.REQUEST.name) -> bytes:
    """The one BYTES element of a request; raises RequestError(wrong_tensor)."""
    elements = read_rows(request, name)
    if len(elements) != 1:
        raise RequestError(
            ErrorKind.WRONG_TENSOR, f"tensor {name!r} has {len(elements)} elements: send one request in each call"
        )
    return elements[0]


def read_rows(request: Any, name: str) -> list[bytes]:
    """All BYTES elements of a tensor, at least one; raises RequestError(wrong_tensor)."""
    try:
        elements = pb.get_input_tensor_by_name(request, name).as_numpy().reshape(-1).tolist()
    except (ValueError, struct.error, AttributeError, pb.TritonModelException) as error:
        raise RequestError(ErrorKind.WRONG_TENSOR, f"tensor {name!r} cannot be read: {error}") from None
    if not elements:
        raise RequestError(ErrorKind.WRONG_TENSOR, f"tensor {name!r} is empty")
    return [bytes(element) for element in elements]


def packed(name: str, content: bytes) -> Any:
    """A tensor [1, 1] with one BYTES element."""
    elements = np.empty((1, 1), np.object_)
    elements[0, 0] = content
    return pb.Tensor(name, elements)


def response(answer: Answer) -> Any:
    """Triton's response for an answer."""
    if isinstance(answer, RequestError):
        return error_response(answer)
    return pb.InferenceResponse(output_tensors=[packed(names.RESPONSE.name, answer)])


def error_response(error: RequestError) -> Any:
    """Triton's response for a refusal; it fails only its own request."""
    code = getattr(pb.TritonError, _CODE_NAMES.get(error.status, error.status))
    return pb.InferenceResponse(error=pb.TritonError(str(error), code))


class TritonCall:
    """One request of `execute`; see `recserve_server_ext.batching.batcher.Call`.

    Triton itself drops queued requests whose caller gave up. Asking `is_cancelled` of a request that was handed over
    costs a round trip to the server's process, about as much as an echo.
    """

    __slots__ = ("_refusals", "_request", "_sender", "deadline_ns")

    def __init__(self, request: Any, refusals: Refusals) -> None:
        self._request = request
        self._refusals = refusals
        self._sender: Any = None
        #: The parameter `timeout` of the request counts from here: Triton's queue is kept short.
        timeout_us = request.timeout()
        self.deadline_ns = time.monotonic_ns() + timeout_us * _MICROSECOND_NS if timeout_us else NO_DEADLINE

    def read(self) -> bytes:
        """See `Call.read`."""
        return read_packed(self._request)

    def defer(self) -> Callable[[Answer], None]:
        """See `Call.defer`."""
        sender = self._sender = self._request.get_response_sender()
        request_id = self._request.request_id()
        # The request dies with `execute`, in its thread: freed by another one it can kill the process.
        self._request = None

        def send(answer: Answer) -> None:
            if isinstance(answer, RequestError):
                self._refusals.add(answer, request_id)
            sender.send(response(answer), flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

        return send

    def is_cancelled(self) -> bool:
        """See `Call.is_cancelled`."""
        return bool(self._sender.is_cancelled())


class PackedModel(ABC):
    """A model that answers packed messages through a batcher.

    Attributes:
        name: Name of the model without a fingerprint.
        closing: What is closed with it, after the batcher, in this order.
    """

    name: ClassVar[str]

    def initialize(self, args: dict[str, str]) -> None:
        """Load all that is needed."""
        settings = model_settings(args)
        self.closing: list[Any] = []
        self._model = self.batcher(settings)
        self._refusals = Refusals(self.name, Path(settings.run))
        self.closing += [AdmissionMetrics(self.name, self._model), self._refusals]
        self._door = door_of(args, settings, self.name)
        settle_memory()

    @abstractmethod
    def batcher(self, settings: ModelSettings) -> Batcher[Any]:
        """What answers the requests; what else is to be closed is added to `closing`."""

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Triton's response for each request, `None` where the answer comes later."""
        refused = _refused(requests, self._door)
        accepted = [request for number, request in enumerate(requests) if number not in refused]
        found = iter(self._model.run([TritonCall(one, self._refusals) for one in accepted]) if accepted else ())
        answers = [refused[number] if number in refused else next(found) for number in range(len(requests))]
        for request, answer in zip(requests, answers, strict=True):
            if isinstance(answer, RequestError):
                self._refusals.add(answer, request.request_id())
        return [None if answer is None else response(answer) for answer in answers]

    def finalize(self) -> None:
        """End all threads, and let go of the metrics."""
        for one in (self._model, *self.closing):
            one.close()
        release_metrics()


def _refused(requests: Sequence[Any], door: Door) -> dict[int, RequestError]:
    """The refusals of requests that the door does not let in, by position."""
    refused: dict[int, RequestError] = {}
    if door.is_open:
        return refused
    for number, request in enumerate(requests):
        try:
            let_in(door, request)
        except RequestError as error:
            refused[number] = error
    return refused


def served_encoders(settings: ModelSettings, role: Role = "query") -> ServedEncoders:
    """The loaded encoders, called through Triton, for texts of a role."""
    return ServedEncoders(Path(settings.run), partial(TritonEncoder, settings, role))


class TritonEncoder:
    """Texts -> vectors through the model of one encoder (business logic scripting)."""

    def __init__(self, settings: ModelSettings, role: Role, encoder: LoadedEncoder) -> None:
        manifest, serve = encoder.manifest, settings.serve
        self._model = names.of_encoder(names.ENCODER, encoder.fingerprint)
        self._tokenizer = TextTokenizer(Path(encoder.folder), manifest.max_tokens)
        self._dim = manifest.dim
        self._widths = padded_widths(serve.encoder.target, manifest.max_tokens)
        self._batch = encoder.batch
        self._timeout_us = int(serve.encoder_timeout_s * MICROSECONDS)
        self._role: Role = role
        self._own_key = settings.own_key
        self._most_parts = most_parts(manifest, role)

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors [texts, dim]; raises RequestError(unavailable) where the encoder does not answer in time."""
        tokens, counts, _ = self._tokenizer.in_parts(texts, self._role, self._most_parts)
        vectors = np.empty((len(tokens.lengths), self._dim), np.float32)
        for rows, width in plan_calls(tokens.lengths, self._widths, self._batch):
            vectors[rows] = self._run(*padded(tokens, width, rows))
        return means_of_parts(vectors, counts)

    def _run(self, ids: Ints, mask: Ints) -> Vectors:
        inputs = [pb.Tensor(names.INPUT_IDS.name, ids), pb.Tensor(names.ATTENTION_MASK.name, mask)]
        return answered_vectors("encoder", self._model, inputs, self._timeout_us, self._own_key)


def answered_vectors(what: str, model: str, inputs: list[Any], timeout_us: int, own_key: str) -> Vectors:
    """The tensor `vector` that a model answers; raises RequestError(unavailable) where it does not answer in time.

    Args:
        what: Names the model in messages.
        model: Its name in Triton.
        inputs: Its tensors.
        timeout_us: Longest wait, in microseconds.
        own_key: Key of the server; empty where no key is asked for.
    """
    request = pb.InferenceRequest(
        model_name=model,
        requested_output_names=[names.VECTOR],
        inputs=inputs,
        timeout=timeout_us,
        preferred_memory=pb.PreferredMemory(pb.TRITONSERVER_MEMORY_CPU, 0),
        parameters={"authorization": bearer(own_key)} if own_key else {},
    )
    try:
        result = request.exec()
    except pb.TritonModelException as error:  # while the model itself is being loaded
        raise RequestError(ErrorKind.UNAVAILABLE, f"the {what} cannot be asked yet: {error}") from None
    if result.has_error():
        raise RequestError(ErrorKind.UNAVAILABLE, f"the {what} did not answer: {result.error().message()}")
    vectors: Vectors = pb.get_output_tensor_by_name(result, names.VECTOR).as_numpy()
    return vectors
