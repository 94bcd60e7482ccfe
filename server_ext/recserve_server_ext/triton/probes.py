"""Real inferences through every model: only these tell whether a Python process is alive and works."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from recserve_client.contract import ErrorKind, bytes_element, split_message
from recserve_client.contract import models as names
from recserve_server_ext.access.door import bearer
from recserve_server_ext.encoder.loaded import LoadedEncoder
from recserve_server_ext.triton.metrics.page import ANSWERED, MetricsError, read_metrics
from recserve_server_ext.triton.network_config import SnapshotNetwork
from recserve_server_ext.triton.process import Endpoint

#: name, datatype, shape, raw content
_Tensor = tuple[str, str, tuple[int, ...], bytes]
_STATUS_SHOWN: Final = 200
#: Models that need something outside: a store, or Milvus.
_MAY_REFUSE: Final = (names.ITEMS, names.INTERACTIONS, names.RECOMMEND, names.RECOMMEND_TEXT)
#: By default gRPC waits up to two minutes before it tries a server again that was away, and asks a proxy for one that
#: listens on this machine.
_CHANNEL: Final = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]


@dataclass(frozen=True)
class ProbeSubject:
    """What the probes ask about.

    Attributes:
        item: An item id of the catalogue.
        has_store: Whether there is a catalogue store, and so the model `items`.
        networks: Networks with a model; the last of each space is probed.
    """

    item: str
    encoder: LoadedEncoder
    has_store: bool = False
    networks: tuple[SnapshotNetwork, ...] = ()


class Probes:
    """Probe requests for every model, sent in parallel."""

    def __init__(self, endpoint: Endpoint, subject: ProbeSubject) -> None:
        self._channel = _open(endpoint)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._metrics = endpoint.metrics
        self._requests = _requests(subject)
        for request in self._requests.values():
            _authorise(request, endpoint)
        self._name_of = {request.model_name: name for name, request in self._requests.items()}
        self._threads = ThreadPoolExecutor(len(self._requests), thread_name_prefix="probe")

    @property
    def models(self) -> list[str]:
        """Names of the probed models, without a fingerprint."""
        return list(self._requests)

    def run(self, timeout_s: float) -> dict[str, str]:
        """Probe all models; the fault, status name and message, of each model that did not answer in time."""
        outcomes = self._threads.map(lambda model: self._probe(model, timeout_s), self._requests)
        return {model: fault for model, fault in zip(self._requests, outcomes, strict=True) if fault is not None}

    def finished(self, timeout_s: float) -> dict[str, int]:
        """Number of requests that each model has answered well since it was loaded; empty without an answer.

        Read from the metrics: they have a port and threads of their own, so a flood of requests does not hide them.
        """
        try:
            page = read_metrics(self._metrics, timeout_s)
        except MetricsError:
            return {}
        return {self._name_of.get(model, model): int(page.total(ANSWERED, model=model)) for model in page.models}

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()
        self._threads.shutdown(wait=False)

    def _probe(self, model: str, timeout_s: float) -> str | None:
        try:
            self._stub.ModelInfer(self._requests[model], timeout=timeout_s)
        except grpc.RpcError as error:
            kind = split_message(error.details() or "")[0]
            # A model that says why it cannot answer is alive, and needs no restart.
            if kind is ErrorKind.OVERLOADED or (model in _MAY_REFUSE and kind is ErrorKind.UNAVAILABLE):
                return None
            return f"{error.code().name}: {error.details()}"[:_STATUS_SHOWN]
        return None


def server_version(endpoint: Endpoint, timeout_s: float, until: Callable[[], bool]) -> str | None:
    """Name and version of a server, such as ``triton 2.51.0``, asked until it answers; `None` without an answer."""
    deadline = time.monotonic() + timeout_s
    with _open(endpoint) as channel:
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
    """Loads and unloads models of a running server. Its methods raise grpc.RpcError when the server refuses."""

    def __init__(self, endpoint: Endpoint, metadata: list[tuple[str, str]]) -> None:
        self._endpoint = endpoint
        self._channel = _open(endpoint)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._metadata = metadata

    def load(self, model: str, timeout_s: float) -> None:
        """Load a model or its new configuration; earlier requests are still answered as before."""
        request = service_pb2.RepositoryModelLoadRequest(model_name=model)
        self._stub.RepositoryModelLoad(request, metadata=self._metadata, timeout=timeout_s)

    def unload(self, model: str, timeout_s: float) -> None:
        """Unload a model once it has answered its requests."""
        request = service_pb2.RepositoryModelUnloadRequest(model_name=model)
        self._stub.RepositoryModelUnload(request, metadata=self._metadata, timeout=timeout_s)

    def reload(self, model: str, timeout_s: float) -> None:
        """Unload and load a model; loading alone does nothing for a dead process."""
        self.unload(model, timeout_s)
        self.load(model, timeout_s)

    def length_of_a_vector(self, encoder: LoadedEncoder, timeout_s: float) -> float:
        """Euclidean length of an encoder's vector of one token; NaN for a vector with NaN."""
        model = names.of_encoder(names.ENCODER, encoder.fingerprint)
        request = _infer(model, *_one_token(encoder))
        _authorise(request, self._endpoint)
        answer = self._stub.ModelInfer(request, timeout=timeout_s)
        return float(np.linalg.norm(np.frombuffer(answer.raw_output_contents[0], "<f4")))

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


def _open(endpoint: Endpoint) -> grpc.Channel:
    tls = endpoint.tls
    if tls is None:
        return grpc.insecure_channel(endpoint.grpc, options=_CHANNEL)
    options = [*_CHANNEL, ("grpc.ssl_target_name_override", tls.server_name)]
    return grpc.secure_channel(endpoint.grpc, tls.credentials, options=options)


def _authorise(request: service_pb2.ModelInferRequest, endpoint: Endpoint) -> None:
    """Put the server's own key into a request, where keys are asked for."""
    if endpoint.own_key:
        request.parameters["authorization"].string_param = bearer(endpoint.own_key)


def _requests(subject: ProbeSubject) -> dict[str, service_pb2.ModelInferRequest]:
    encoder, request, rows = subject.encoder, names.REQUEST.name, names.REQUEST_ROWS.name
    text = {"history": [{"text": "probe"}], "k": 1}
    item = {"history": [{"item": subject.item}], "k": 1, "exclude_history": False}
    tokenize, pool = (names.of_encoder(name, encoder.fingerprint) for name in (names.TOKENIZE, names.POOL))
    vector = np.zeros((1, encoder.manifest.dim), np.float32)
    vector[0, 0] = 1
    history = {"op": "history", "user_id": "recserve probe", "limit": 1}
    items = {names.ITEMS: _infer(names.ITEMS, _packed(request, {"op": "get", "ids": [subject.item]}))}
    return {
        **(items if subject.has_store else {}),
        **{network.space: _infer(network.model, *_no_behaviours(network)) for network in subject.networks},
        names.INTERACTIONS: _infer(names.INTERACTIONS, _packed(request, history)),
        names.ENCODER: _infer(names.ENCODER, *_one_token(encoder)),
        names.RECOMMEND: _infer(names.RECOMMEND, _packed(request, item)),
        names.EMBED: _infer(names.EMBED, _packed(request, {"texts": ["probe"]})),
        names.TOKENIZE: _infer(tokenize, _packed(request, text)),
        names.POOL: _infer(pool, _packed(rows, text), (names.VECTOR, "FP32", vector.shape, vector.tobytes())),
        names.RECOMMEND_TEXT: _infer(names.RECOMMEND_TEXT, _packed(request, text)),
    }


def _one_token(encoder: LoadedEncoder) -> list[_Tensor]:
    ids, mask = np.zeros((2, 1, encoder.manifest.max_tokens), np.int64)
    mask[0, 0] = 1
    return [
        (names.INPUT_IDS.name, "INT64", ids.shape, ids.tobytes()),
        (names.ATTENTION_MASK.name, "INT64", mask.shape, mask.tobytes()),
    ]


def _no_behaviours(network: SnapshotNetwork) -> list[_Tensor]:
    tensors = names.behaviour_tensors(network.manifest.dim, network.manifest.length)
    zeros = [np.zeros((1, *tensor.shape), np.float32) for tensor in tensors]
    return [(tensor.name, tensor.datatype, of.shape, of.tobytes()) for tensor, of in zip(tensors, zeros, strict=True)]


def _packed(name: str, body: object) -> _Tensor:
    return name, "BYTES", (1, 1), bytes_element(json.dumps(body).encode())


def _infer(model: str, *tensors: _Tensor) -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, datatype, shape, raw in tensors:
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        request.raw_input_contents.append(raw)
    return request
