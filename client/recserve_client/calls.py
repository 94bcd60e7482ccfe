"""The requests that both clients make: each method is written once, here, as a description of its call."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from recserve_client.contract import (
    Behaviour,
    EmbedRequest,
    EmbedResponse,
    RecommendRequest,
    RequestError,
    Slate,
    models,
    pack,
)
from recserve_client.errors import ServerFault, from_request

R = TypeVar("R")

_SLATE: Final = msgspec.json.Decoder(Slate)
_EMBEDDED: Final = msgspec.json.Decoder(EmbedResponse)


@dataclass(frozen=True)
class Call(Generic[R]):
    """One call: what to send and how to read the answer.

    Attributes:
        method: gRPC method of the KServe v2 service.
        request: Protobuf message.
        read: Protobuf answer -> result.
        deadline_s: For all tries together; none = the client's default.
    """

    method: str
    request: Any
    read: Callable[[Any], R]
    deadline_s: float | None


def item(item_id: str, weight: float = 1.0) -> Behaviour:
    """A behaviour with an item of the catalogue; a negative weight pushes away."""
    return Behaviour(item=item_id, weight=weight)


def text(content: str, weight: float = 1.0) -> Behaviour:
    """A behaviour with a free text; a negative weight pushes away."""
    return Behaviour(text=content, weight=weight)


def recommend(
    history: Sequence[Behaviour],
    *,
    k: int = 10,
    exclude: Sequence[str] = (),
    exclude_history: bool = True,
    ef: int | None = None,
    fields: Sequence[str] = (),
    explain: bool = True,
    on_unknown: Literal["error", "ignore"] = "error",
    deadline_s: float | None = None,
) -> Call[Slate]:
    """Recommend items for a history.

    Args:
        history: Weighted behaviours, made by `item` and `text`.
        k: Number of items wanted, 1 to 1,000.
        exclude: Item ids that must not be recommended.
        exclude_history: Whether the items of the history stay out.
        ef: Width of the HNSW search; none = the index's own.
        fields: Fields of the items to return.
        explain: Whether each item comes with the contribution of every behaviour.
        on_unknown: What an unknown item id does: refuse the request, or be skipped.
        deadline_s: For all tries together.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    message = RecommendRequest(
        history=list(history),
        k=k,
        exclude=list(exclude),
        exclude_history=exclude_history,
        ef=ef,
        fields=list(fields),
        explain=explain,
        on_unknown=on_unknown,
    )
    return Call(
        "ModelInfer", _infer(models.RECOMMEND, message), lambda answer: _SLATE.decode(_packed(answer)), deadline_s
    )


def recommend_text(
    texts: Sequence[str],
    *,
    weights: Sequence[float] | None = None,
    k: int = 10,
    exclude: Sequence[str] = (),
    fields: Sequence[str] = (),
    explain: bool = True,
    deadline_s: float | None = None,
) -> Call[Slate]:
    """Recommend items for texts through the ensemble; the same slate as `recommend`, every text encoded anew.

    Args:
        texts: The history.
        weights: One for each text; none = 1.
        k: Number of items wanted, 1 to 1,000.
        exclude: Item ids that must not be recommended.
        fields: Fields of the items to return.
        explain: Whether each item comes with the contribution of every text.
        deadline_s: For all tries together.

    Raises:
        ValueError: Not as many weights as texts.
        RecserveError: See `recserve_client.errors`.
    """
    history = [text(*pair) for pair in zip(texts, weights or [1.0] * len(texts), strict=True)]
    message = RecommendRequest(history=history, k=k, exclude=list(exclude), fields=list(fields), explain=explain)
    request = _infer(models.RECOMMEND_TEXT, message)
    return Call("ModelInfer", request, _slate, deadline_s)


def embed(texts: Sequence[str], *, deadline_s: float | None = None) -> Call[NDArray[np.float32]]:
    """Unit vectors of texts, [texts, dim].

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    return Call("ModelInfer", _infer(models.EMBED, EmbedRequest(list(texts))), _vectors, deadline_s)


@dataclass(frozen=True)
class ServerInfo:
    """Name and version of the Triton that answers."""

    name: str
    version: str


def server_info(*, deadline_s: float | None = None) -> Call[ServerInfo]:
    """Name and version of the Triton that answers."""
    request = service_pb2.ServerMetadataRequest()
    return Call("ServerMetadata", request, lambda answer: ServerInfo(answer.name, answer.version), deadline_s)


def _infer(model: str, message: msgspec.Struct) -> Any:
    try:
        raw = pack(message)
    except RequestError as error:
        raise from_request(error) from None
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name=models.REQUEST.name, datatype=models.REQUEST.datatype, shape=(1, 1))
    request.raw_input_contents.append(struct.pack("<I", len(raw)) + raw)
    return request


def _packed(answer: Any) -> bytes:
    contents = answer.raw_output_contents
    if len(contents) != 1 or len(contents[0]) < 4:
        raise ServerFault("the answer holds no packed message; is this a recserve server?", status="INTERNAL")
    packed: bytes = contents[0][4:]
    return packed


def _slate(answer: Any) -> Slate:
    return _SLATE.decode(_packed(answer))


def _vectors(answer: Any) -> NDArray[np.float32]:
    embedded = _EMBEDDED.decode(_packed(answer))
    flat = np.frombuffer(base64.b64decode(embedded.vectors), "<f4").astype(np.float32)
    return flat.reshape(embedded.count, embedded.dim)
