"""Descriptions of the clients' calls: each method is written once, for the sync and the asyncio client."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, TypedDict, TypeVar, Unpack

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from recserve_client.contract import (
    AnswerReader,
    Behaviour,
    EmbedRequest,
    EmbedResponse,
    ErrorKind,
    Explore,
    Page,
    RecommendRequest,
    RequestError,
    Slate,
    Walk,
    bytes_element,
    models,
    pack,
    shown,
)
from recserve_client.contract.filters import Filter
from recserve_client.contract.slate_options import Recency, SlateOptions
from recserve_client.errors import RecserveError, ServerFault, from_request
from recserve_client.trace_context import trace_id, traceparent

M = TypeVar("M", bound=msgspec.Struct)
R = TypeVar("R")
#: Default deadline, in seconds, of what may be large and is encoded or fsynced: changes, recordings, exports, erasures.
CHANGE_S: Final = 60.0


@dataclass(frozen=True)
class Call(Generic[R]):
    """One call: what to send and how to read the answer.

    Attributes:
        method: gRPC method of the KServe v2 service.
        request: Protobuf message to send.
        read: Turns the protobuf answer into the result, or into the call to make next.
        deadline_s: Seconds for all tries together; `None` takes the client's default.
        failed: Turns a failure into a result; `None` raises it.
        key: API key in place of the client's.
    """

    method: str
    request: Any
    read: Callable[[Any], R | Call[R]]
    deadline_s: float | None
    failed: Callable[[RecserveError], R] | None = None
    key: str = field(default="", repr=False)

    def settled(self, error: RecserveError) -> R:
        """The result of a call that failed.

        Raises:
            RecserveError: The failure, where the call has no result for it.
        """
        if self.failed is None:
            raise error
        return self.failed(error)


def item(item_id: str, weight: float = 1.0, *, text: str | None = None) -> Behaviour:
    """A behaviour with an item of the catalogue, and perhaps what the user wrote about it.

    A negative weight pushes similar items away.
    """
    return Behaviour(item=item_id, text=text, weight=weight)


def text(content: str, weight: float = 1.0) -> Behaviour:
    """A behaviour with a free text; a negative weight pushes similar items away."""
    return Behaviour(text=content, weight=weight)


class RecommendOptions(TypedDict, total=False):
    """Options of all recommendations; the defaults are those of `RecommendRequest`.

    Attributes:
        k: Number of items wanted, 1 to 1,000.
        exclude: Item ids that must not be recommended.
        ef: Width of the HNSW search.
        fields: Fields of the items to return.
        explain: Whether to return the parts of each score and the contribution of each behaviour.
        min_revision: Answer from this revision of the catalogue or a later one, as `client.items.upsert` returned it.
        where: Recommend only matching items: a filter, or its text (``year >= 1990 and "Drama" in genre``).
        slate: Slate options.
        count: Whether to count the available items that match `where`.
        page: Page of the k items; `Slate.cursor` asks for the next one, with the same request.
        strategy: Name of the strategy; the server refuses an unknown one with a list of its strategies.
        options: Options of the strategy, by name.
        interests: Largest number of interest clusters that the history is split into, 1 to 8.
        context: Context of this visit. Popularity is that of this context, where the server counts it.
        explore: Exploration of other candidates.
        new_items: Boost of new items, which also makes the newest ones candidates.
        on_cold: What happens without a usable profile: the server's `fallback` strategy answers, or an `error`.
        now: Moment of the request in seconds since 1970, for replays, where the server takes one.
        walk: Asks for the walk of the request through the stages.
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
    now: float | None
    walk: Walk | None


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
        exclude_history: Whether the items of the history are excluded.
        on_unknown: Whether an unknown item id refuses the request, or is skipped.
        deadline_s: Seconds for all tries together.
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
    """Recommend items for a complete request.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    span = message.traceparent or traceparent()
    message = replace(message, accept="msgpack", traceparent=span)
    return model_call(models.RECOMMEND, message, slate_of, deadline_s)


def similar(item_id: str, *, deadline_s: float | None = None, **options: Unpack[RecommendOptions]) -> Call[Slate]:
    """Recommend the items most similar to one item; without contributions, unless `explain` asks for them.

    Args:
        item_id: Id of the item; it is not in the slate.
        deadline_s: Seconds for all tries together.
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
    """Recommend items for texts through the ensemble: the slate of `recommend`, without the server's text cache.

    Args:
        texts: The history.
        weights: Weight of each text; `None` for 1.
        deadline_s: Seconds for all tries together.
        options: See `RecommendOptions`.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    check_list(texts, "texts")
    if weights is None:
        weights = [1.0] * len(texts)
    if len(weights) != len(texts):
        raise _refused(f"{len(weights)} weights for {len(texts)} texts; give a weight for each text, or no weights")
    history = [text(content, weight) for content, weight in zip(texts, weights, strict=True)]
    check_weights(history, "history")
    message = RecommendRequest(history, accept="msgpack", **request_fields(options))
    return model_call(models.RECOMMEND_TEXT, message, slate_of, deadline_s)


def embed(texts: Sequence[str], *, deadline_s: float | None = None) -> Call[NDArray[np.float32]]:
    """Encode texts: unit vectors, [texts, dim] float32.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    check_list(texts, "$.texts")
    return model_call(models.EMBED, EmbedRequest(list(texts)), _vectors, deadline_s)


def filter_of(where: Filter | str | None) -> Filter | None:
    """The filter itself, or the filter that a text expresses.

    Raises:
        RecserveError: The text cannot be parsed.
    """
    if not isinstance(where, str):
        return where
    # Imported here, since most callers write no text.
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
        RecserveError: The text of a filter cannot be parsed.
    """
    fields: dict[str, Any] = dict(options)
    if "where" in options:
        fields["where"] = filter_of(options["where"])
    for name, kind in (("exclude", list), ("fields", list), ("options", dict), ("context", dict)):
        if name in fields:
            if kind is list:
                check_list(fields[name], f"$.{name}")
            fields[name] = kind(fields[name])
    return fields


def check_list(values: object, name: str) -> None:
    """Refuse a string where a list of strings is expected: its characters would be taken one by one."""
    if isinstance(values, str | bytes):
        raise _refused(f"{name} is the string {shown(values)}; give a list, [{shown(values)}]")


def check_weights(behaviours: Sequence[Behaviour], name: str) -> None:
    """Refuse weights that JSON cannot express: they would arrive as null, and the server could not name them."""
    for place, behaviour in enumerate(behaviours):
        if isinstance(behaviour, Behaviour) and not math.isfinite(behaviour.weight):
            raise _refused(f"$.{name}[{place}].weight is {shown(behaviour.weight)}; weights must be finite numbers")


def model_call(
    model: str,
    message: msgspec.Struct,
    read: Callable[[Any], R | Call[R]],
    deadline_s: float | None,
    failed: Callable[[RecserveError], R] | None = None,
) -> Call[R]:
    """A call that sends a message to a model; see `Call` for the arguments.

    Raises:
        RecserveError: The message cannot be packed.
    """
    try:
        raw = pack(message)
    except RequestError as error:
        raise from_request(error) from None
    return packed_call(model, raw, read, deadline_s, failed)


def packed_call(
    model: str,
    raw: bytes,
    read: Callable[[Any], R | Call[R]],
    deadline_s: float | None,
    failed: Callable[[RecserveError], R] | None = None,
) -> Call[R]:
    """A call that sends a packed message to a model; see `Call` for the arguments."""
    request = service_pb2.ModelInferRequest(model_name=model, id=trace_id())
    request.inputs.add(name=models.REQUEST.name, datatype=models.REQUEST.datatype, shape=(1, 1))
    request.raw_input_contents.append(bytes_element(raw))
    return Call("ModelInfer", request, read, deadline_s, failed)


def packed_answer(answer: Any) -> bytes:
    """The packed message of a protobuf answer; raises ServerFault where there is none."""
    contents = answer.raw_output_contents
    if len(contents) != 1 or len(contents[0]) < 4:
        raise unreadable("no packed message")
    packed: bytes = contents[0][4:]
    return packed


def unreadable(what: str) -> ServerFault:
    """The error for an answer that is not one of a recserve server."""
    return ServerFault(f"the answer holds {what}; is this a recserve server of this version?", status="INTERNAL")


def reader(message_type: type[M]) -> Callable[[Any], M]:
    """A function that decodes the packed message of a protobuf answer; it raises ServerFault for another message."""
    decode = AnswerReader(message_type)

    def read(answer: Any) -> M:
        try:
            return decode(packed_answer(answer))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise unreadable(f"an unexpected message ({error})") from None

    return read


#: The slate of a protobuf answer.
slate_of: Final = reader(Slate)
_embedded: Final = reader(EmbedResponse)


def _vectors(answer: Any) -> NDArray[np.float32]:
    embedded = _embedded(answer)
    try:
        flat = np.frombuffer(base64.b64decode(embedded.vectors), "<f4").astype(np.float32)
        return flat.reshape(embedded.count, embedded.dim)
    except ValueError as error:
        raise unreadable(f"vectors of another size than it says ({error})") from None
