"""A real inference through every model: only that tells whether a Python process lives and works."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from recserve_client.contract import ErrorKind, bytes_element, split_message
from recserve_client.contract import models as names
from recserve_server_ext.encoder.loaded import LoadedEncoder

#: name, datatype, shape, raw content
_Tensor = tuple[str, str, tuple[int, ...], bytes]
_STATUS_SHOWN = 200
#: Models that need something outside: a store, or Milvus.
_MAY_REFUSE = (names.ITEMS, names.INTERACTIONS, names.RECOMMEND, names.RECOMMEND_TEXT)
#: gRPC would wait up to two minutes before it tries a server again that was away.
_RECONNECT = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]


@dataclass(frozen=True)
class ProbeSubject:
    """What the probes need to know.

    Attributes:
        item: An item id of the catalogue.
        encoder: What is served.
        has_store: Whether there is a catalogue store, and so the model `items`.
    """

    item: str
    encoder: LoadedEncoder
    has_store: bool = False


class Probes:
    """Probe requests for every model, sent in parallel."""

    def __init__(self, address: str, subject: ProbeSubject) -> None:
        self._channel = grpc.insecure_channel(address, options=_RECONNECT)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._requests = _requests(subject)
        self._name_of = {request.model_name: name for name, request in self._requests.items()}
        self._threads = ThreadPoolExecutor(len(self._requests), thread_name_prefix="probe")

    @property
    def models(self) -> list[str]:
        """Names of the models probed, without the fingerprint in them."""
        return list(self._requests)

    def run(self, timeout_s: float) -> dict[str, str]:
        """Probe all models.

        Returns:
            The fault of each model that did not answer in time: status name and message.
        """
        outcomes = self._threads.map(lambda model: self._probe(model, timeout_s), self._requests)
        return {model: fault for model, fault in zip(self._requests, outcomes, strict=True) if fault is not None}

    def finished(self, timeout_s: float) -> dict[str, int]:
        """Requests that each model has answered well since it was loaded; empty when the server does not say."""
        try:
            statistics = self._stub.ModelStatistics(service_pb2.ModelStatisticsRequest(), timeout=timeout_s)
        except grpc.RpcError:
            return {}
        return {
            self._name_of.get(model.name, model.name): int(model.inference_stats.success.count)
            for model in statistics.model_stats
        }

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()
        self._threads.shutdown(wait=False)

    def _probe(self, model: str, timeout_s: float) -> str | None:
        try:
            self._stub.ModelInfer(self._requests[model], timeout=timeout_s)
        except grpc.RpcError as error:
            # A model that says why it cannot answer is alive: what is away comes back without a restart.
            if model in _MAY_REFUSE and split_message(error.details() or "")[0] is ErrorKind.UNAVAILABLE:
                return None
            return f"{error.code().name}: {error.details()}"[:_STATUS_SHOWN]
        return None


def server_version(address: str, timeout_s: float, until: Callable[[], bool]) -> str | None:
    """Name and version of a server, asked until it answers.

    Args:
        address: host:port of gRPC.
        timeout_s: How long to ask.
        until: Whether to give up earlier.

    Returns:
        For example ``triton 2.51.0``; None = no answer.
    """
    deadline = time.monotonic() + timeout_s
    with grpc.insecure_channel(address, options=_RECONNECT) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        while time.monotonic() < deadline and not until():
            try:
                found = stub.ServerMetadata(service_pb2.ServerMetadataRequest(), timeout=1)
            except grpc.RpcError:
                time.sleep(0.05)
            else:
                return f"{found.name} {found.version}"
    return None


class Admin:
    """Loads and unloads models of a running server."""

    def __init__(self, address: str, metadata: list[tuple[str, str]]) -> None:
        self._channel = grpc.insecure_channel(address)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._metadata = metadata

    def load(self, model: str, timeout_s: float) -> None:
        """Load a model, or take over its new configuration; what it was asked before is still answered as before.

        Raises:
            grpc.RpcError: The server refused, or did not answer in time.
        """
        request = service_pb2.RepositoryModelLoadRequest(model_name=model)
        self._stub.RepositoryModelLoad(request, metadata=self._metadata, timeout=timeout_s)

    def unload(self, model: str, timeout_s: float) -> None:
        """Unload a model, when it has answered what it was asked.

        Raises:
            grpc.RpcError: The server refused, or did not answer in time.
        """
        request = service_pb2.RepositoryModelUnloadRequest(model_name=model)
        self._stub.RepositoryModelUnload(request, metadata=self._metadata, timeout=timeout_s)

    def reload(self, model: str, timeout_s: float) -> None:
        """Unload and load a model; loading alone does nothing for a dead process.

        Raises:
            grpc.RpcError: The server refused, or did not answer in time.
        """
        self.unload(model, timeout_s)
        self.load(model, timeout_s)

    def length_of_a_vector(self, encoder: LoadedEncoder, timeout_s: float) -> float:
        """Euclidean length of what an encoder makes of one token; not a number where it makes none.

        Raises:
            grpc.RpcError: It does not answer.
        """
        model = names.of_encoder(names.ENCODER, encoder.fingerprint)
        answer = self._stub.ModelInfer(_infer(model, *_one_token(encoder)), timeout=timeout_s)
        return float(np.linalg.norm(np.frombuffer(answer.raw_output_contents[0], "<f4")))

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


def _requests(subject: ProbeSubject) -> dict[str, service_pb2.ModelInferRequest]:
    text = {"history": [{"text": "probe"}], "k": 1}
    tokenize, pool = (names.of_encoder(name, subject.encoder.fingerprint) for name in (names.TOKENIZE, names.POOL))
    vector = np.zeros((1, subject.encoder.dim), np.float32)
    vector[0, 0] = 1
    request, rows = names.REQUEST.name, names.REQUEST_ROWS.name
    items = {names.ITEMS: _infer(names.ITEMS, _packed(request, {"op": "get", "ids": [subject.item]}))}
    history = {"op": "history", "user_id": "recserve probe", "limit": 1}
    return {
        **(items if subject.has_store else {}),
        names.INTERACTIONS: _infer(names.INTERACTIONS, _packed(request, history)),
        names.ENCODER: _infer(names.ENCODER, *_one_token(subject.encoder)),
        names.RECOMMEND: _infer(
            names.RECOMMEND, _packed(request, {"history": [{"item": subject.item}], "k": 1, "exclude_history": False})
        ),
        names.EMBED: _infer(names.EMBED, _packed(request, {"texts": ["probe"]})),
        names.TOKENIZE: _infer(tokenize, _packed(request, text)),
        names.POOL: _infer(pool, _packed(rows, text), (names.VECTOR, "FP32", vector.shape, vector.tobytes())),
        names.RECOMMEND_TEXT: _infer(names.RECOMMEND_TEXT, _packed(request, text)),
    }


def _one_token(encoder: LoadedEncoder) -> list[_Tensor]:
    ids, mask = np.zeros((2, 1, encoder.max_tokens), np.int64)
    mask[0, 0] = 1
    return [
        (names.INPUT_IDS.name, "INT64", ids.shape, ids.tobytes()),
        (names.ATTENTION_MASK.name, "INT64", mask.shape, mask.tobytes()),
    ]


def _packed(name: str, body: object) -> _Tensor:
    raw = json.dumps(body).encode()
    return name, "BYTES", (1, 1), bytes_element(raw)


def _infer(model: str, *tensors: _Tensor) -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, datatype, shape, raw in tensors:
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        request.raw_input_contents.append(raw)
    return request
