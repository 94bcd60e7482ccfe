"""Descriptions of the calls about a server: whether it is ready, what it serves, and by which strategies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec.structs import replace
from tritonclient.grpc import service_pb2

from recserve_client.calls import Call, model_call, slate_of, text, unreadable
from recserve_client.contract import RecommendRequest, ServedStrategies, Slate, Walk, models
from recserve_client.errors import Cancelled, PermissionDenied, RecserveError, Unauthenticated


def ready(*, deadline_s: float | None = None) -> Call[bool]:
    """Whether the server can recommend now; it is asked for a real recommendation from a text.

    Triton's own readiness stays true after the process behind a model has died.

    Raises:
        RecserveError: The call was cancelled, or the server wants another key.
    """

    def read(answer: Any) -> bool:
        slate_of(answer)
        return True

    return model_call(models.RECOMMEND_TEXT, _PROBE, read, deadline_s, _is_ready)


def probe(*, deadline_s: float | None = None) -> Call[Slate]:
    """A real recommendation from a text with its walk, which tells what is served; it is no impression.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    return model_call(models.RECOMMEND_TEXT, replace(_PROBE, walk=Walk()), slate_of, deadline_s)


@dataclass(frozen=True)
class ServerInfo:
    """A server and what it serves.

    Attributes:
        name: Name of the server.
        version: Version of the server.
        encoder: Fingerprint of the encoder.
        revision: Revision of the catalogue.
    """

    name: str
    version: str
    encoder: str
    revision: int


def server_info(*, deadline_s: float | None = None) -> Call[ServerInfo]:
    """The server's name and version, the fingerprint of its encoder, and the revision of its catalogue.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """

    def served(metadata: Any) -> Call[ServerInfo]:
        def read(answer: Any) -> ServerInfo:
            slate = slate_of(answer)
            return ServerInfo(metadata.name, metadata.version, slate.encoder, slate.revision)

        return model_call(models.RECOMMEND, _PROBE, read, deadline_s)

    return Call("ServerMetadata", service_pb2.ServerMetadataRequest(), served, deadline_s)


#: A request that every served catalogue can answer.
_PROBE: Final = RecommendRequest(history=[text("probe")], k=1, explain=False)


def _is_ready(error: RecserveError) -> bool:
    if isinstance(error, Cancelled | Unauthenticated | PermissionDenied):
        raise error
    return False


def strategies(*, deadline_s: float | None = None) -> Call[ServedStrategies]:
    """The strategies of the server, and which of them answers requests that name none.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """

    def read(answer: Any) -> ServedStrategies:
        served = answer.config.parameters[models.STRATEGIES].string_value
        try:
            return msgspec.json.decode(served, type=ServedStrategies)
        except msgspec.MsgspecError as error:
            raise unreadable(f"no list of strategies ({error})") from None

    return Call("ModelConfig", service_pb2.ModelConfigRequest(name=models.RECOMMEND), read, deadline_s)
