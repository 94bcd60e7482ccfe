"""The requests that both clients make: each method is written once, here, as a description of its call."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypedDict, TypeVar, Unpack

import msgspec
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from recserve_client.contract import (
    Behaviour,
    EmbedRequest,
    EmbedResponse,
    ErrorKind,
    Explore,
    Page,
    RecommendRequest,
    RequestError,
    Slate,
    bytes_element,
    models,
    pack,
    shown,
)
from recserve_client.contract.filters import Filter
from recserve_client.contract.slate_options import Recency, SlateOptions
from recserve_client.errors import Cancelled, RecserveError, ServerFault, from_request

M = TypeVar("M", bound=msgspec.Struct)
R = TypeVar("R")

_SLATE: Final = msgspec.json.Decoder(Slate)
_EMBEDDED: Final = msgspec.json.Decoder(EmbedResponse)


@dataclass(frozen=True)
class Call(Generic[R]):
    """One call: what to send and how to read the answer.

    Attributes:
        method: gRPC method of the KServe v2 service.
        request: Protobuf message.
        read: Protobuf answer -> result, or the call to make next.
        deadline_s: For all tries together; none = the client's default.
        failed: What a failure means; none = it is raised.
    """

    method: str
    request: Any
    read: Callable[[Any], R | Call[R]]
    deadline_s: float | None
    failed: Callable[[RecserveError], R] | None = None

    def settled(self, error: RecserveError) -> R:
        """The result that a failure stands for.

        Raises:
            RecserveError: The failure itself, where it stands for none.
        """
        if self.failed is None:
            raise error
        return self.failed(error)


def item(item_id: str, weight: float = 1.0) -> Behaviour:
    """A behaviour with an item of the catalogue; a negative weight pushes away."""
    return Behaviour(item=item_id, weight=weight)


def text(content: str, weight: float = 1.0) -> Behaviour:
    """A behaviour with a free text; a negative weight pushes away."""
    return Behaviour(text=content, weight=weight)


class RecommendOptions(TypedDict, total=False):
    """What may be asked of any recommendation; the defaults are those of `RecommendRequest`.

    Attributes:
        k: Number of items wanted, 1 to 1,000.
        exclude: Item ids that must not be recommended.
        ef: Width of the HNSW search.
        fields: Fields of the items to return.
        explain: Whether each item comes with the parts of its score and the contribution of every behaviour.
        min_revision: Answer from this revision of the catalogue or a later one, as `client.items.upsert` returned it.
        where: Only items that match: a filter, or its text (``year >= 1990 and "Drama" in genre``).
        slate: How the slate is made of the candidates.
        count: Whether to count the items that match `where`.
        page: A part of the k items; `Slate.cursor` asks for the next one, with all else as it was.
        strategy: Name of what proposes and scores the candidates; the server refuses an unknown one with its list.
        options: Options of that strategy, by name.
        interests: The most interest clusters that the history is parted into, 1 to 8.
        context: Of this visit; decides, where the server counts by it, among whom an item is popular.
        explore: Whether and how to try other candidates.
        new_items: Favour new items: a share by age, which also makes them candidates.
        on_cold: Where nothing usable is known: the server's `fallback` strategy, or an `error`.
    """

    k: int
    exclude: Sequence[str]
    ef: int | None
    fields: Sequence[str]
    explain: bool
    min_revision: int
    where: Filter | str | None
    slate: SlateOptions | None
    count: bool
    page: Page | None
    strategy: str
    options: Mapping[str, Any]
    interests: int
    context: Mapping[str, str]
    explore: Explore | None
    new_items: Recency | None
    on_cold: Literal["fallback", "error"] | None


def recommend(
    history: Sequence[Behaviour],
    *,
    exclude_history: bool = True,
    on_unknown: Literal["error", "ignore"] = "error",
    deadline_s: float | None = None,
    **options: Unpack[RecommendOptions],
) -> Call[Slate]:
    """Recommend items for a history.

    Args:
        history: Weighted behaviours, made by `item` and `text`.
        exclude_history: Whether the items of the history stay out.
        on_unknown: What an unknown item id does: refuse the request, or be skipped.
        deadline_s: For all tries together.
        options: See `RecommendOptions`.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    check_weights(history, "history")
    message = RecommendRequest(
        list(history), exclude_history=exclude_history, on_unknown=on_unknown, **request_fields(options)
    )
    return request(message, deadline_s=deadline_s)


def request(message: RecommendRequest, *, deadline_s: float | None = None) -> Call[Slate]:
    """Recommend items for a request that is there already.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    return Call("ModelInfer", infer(models.RECOMMEND, message), _slate, deadline_s)


def similar(item_id: str, *, deadline_s: float | None = None, **options: Unpack[RecommendOptions]) -> Call[Slate]:
    """The items most like one item: `recommend` from it alone, without contributions unless `explain` asks for them.

    Args:
        item_id: Its id; it is not among the answer.
        deadline_s: For all tries together.
        options: See `RecommendOptions`.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    options.setdefault("explain", False)
    return recommend([item(item_id)], deadline_s=deadline_s, **options)


def recommend_text(
    texts: Sequence[str],
    *,
    weights: Sequence[float] | None = None,
    deadline_s: float | None = None,
    **options: Unpack[RecommendOptions],
) -> Call[Slate]:
    """Recommend items for texts through the ensemble; the same slate as `recommend`, every text encoded anew.

    Args:
        texts: The history.
        weights: One for each text; `None` weighs each with 1.
        deadline_s: For all tries together.
        options: See `RecommendOptions`.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    if weights is None:
        weights = [1.0] * len(texts)
    if len(weights) != len(texts):
        raise _refused(f"{len(weights)} weights for {len(texts)} texts; give one for each text, or none")
    history = [text(content, weight) for content, weight in zip(texts, weights, strict=True)]
    check_weights(history, "history")
    message = RecommendRequest(history, **request_fields(options))
    return Call("ModelInfer", infer(models.RECOMMEND_TEXT, message), _slate, deadline_s)


def embed(texts: Sequence[str], *, deadline_s: float | None = None) -> Call[NDArray[np.float32]]:
    """Unit vectors of texts, [texts, dim].

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    return Call("ModelInfer", infer(models.EMBED, EmbedRequest(list(texts))), _vectors, deadline_s)


def ready(*, deadline_s: float | None = None) -> Call[bool]:
    """Whether a recommendation can be made now: makes one, from text to slate.

    Triton's own flags stay true when the process behind a model has died, so they are not asked.
    """

    def read(answer: Any) -> bool:
        _slate(answer)
        return True

    return Call("ModelInfer", infer(models.RECOMMEND_TEXT, _PROBE), read, deadline_s, _is_ready)


@dataclass(frozen=True)
class ServerInfo:
    """Who answers, and from what.

    Attributes:
        name: Of the server.
        version: Of the server.
        encoder: Fingerprint of the encoder.
        revision: Revision of the catalogue that is served.
    """

    name: str
    version: str
    encoder: str
    revision: int


def server_info(*, deadline_s: float | None = None) -> Call[ServerInfo]:
    """Name and version of the server, fingerprint of its encoder, revision of its catalogue.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """

    def served(metadata: Any) -> Call[ServerInfo]:
        def read(answer: Any) -> ServerInfo:
            slate = _slate(answer)
            return ServerInfo(metadata.name, metadata.version, slate.encoder, slate.revision)

        return Call("ModelInfer", infer(models.RECOMMEND, _PROBE), read, deadline_s)

    return Call("ServerMetadata", service_pb2.ServerMetadataRequest(), served, deadline_s)


#: A request that any served catalogue can answer.
_PROBE: Final = RecommendRequest(history=[text("probe")], k=1, explain=False)


def _is_ready(error: RecserveError) -> bool:
    if isinstance(error, Cancelled):
        raise error
    return False


def filter_of(where: Filter | str | None) -> Filter | None:
    """A filter, or that of a text.

    Raises:
        RecserveError: The text cannot be read.
    """
    if not isinstance(where, str):
        return where
    # Here, since most callers write no text.
    from recserve_client.where import parse_where

    try:
        return parse_where(where)
    except RequestError as error:
        raise from_request(error) from None


def _refused(message: str) -> RecserveError:
    return from_request(RequestError(ErrorKind.INVALID_REQUEST, message))


def request_fields(options: RecommendOptions) -> dict[str, Any]:
    """Options as the fields of a `RecommendRequest`.

    Raises:
        RecserveError: The text of a filter cannot be read.
    """
    fields: dict[str, Any] = dict(options)
    if "where" in options:
        fields["where"] = filter_of(options["where"])
    for name, kind in (("exclude", list), ("fields", list), ("options", dict), ("context", dict)):
        if name in fields:
            fields[name] = kind(fields[name])
    return fields


def check_weights(behaviours: Sequence[Behaviour], name: str) -> None:
    """Refuse what JSON cannot carry: it would arrive as null, and the server could not name it."""
    for place, behaviour in enumerate(behaviours):
        if isinstance(behaviour, Behaviour) and not math.isfinite(behaviour.weight):
            raise _refused(f"$.{name}[{place}].weight is {shown(behaviour.weight)}; weights must be finite numbers")


def infer(model: str, message: msgspec.Struct) -> Any:
    """The protobuf request that carries a packed message to a model.

    Raises:
        RecserveError: It cannot be packed.
    """
    try:
        raw = pack(message)
    except RequestError as error:
        raise from_request(error) from None
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name=models.REQUEST.name, datatype=models.REQUEST.datatype, shape=(1, 1))
    request.raw_input_contents.append(bytes_element(raw))
    return request


def _packed(answer: Any) -> bytes:
    contents = answer.raw_output_contents
    if len(contents) != 1 or len(contents[0]) < 4:
        raise _unreadable("no packed message")
    packed: bytes = contents[0][4:]
    return packed


def _unreadable(what: str) -> ServerFault:
    return ServerFault(f"the answer holds {what}; is this a recserve server of this version?", status="INTERNAL")


def decoded(decoder: msgspec.json.Decoder[M], answer: Any) -> M:
    """The packed message of a protobuf answer.

    Raises:
        ServerFault: It holds another one.
    """
    try:
        return decoder.decode(_packed(answer))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _unreadable(f"another message than expected ({error})") from None


def _slate(answer: Any) -> Slate:
    return decoded(_SLATE, answer)


def _vectors(answer: Any) -> NDArray[np.float32]:
    embedded = decoded(_EMBEDDED, answer)
    try:
        flat = np.frombuffer(base64.b64decode(embedded.vectors), "<f4").astype(np.float32)
        return flat.reshape(embedded.count, embedded.dim)
    except ValueError as error:
        raise _unreadable(f"other vectors than it says ({error})") from None
