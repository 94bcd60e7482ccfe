"""Both clients against a small gRPC server of the same protocol: results, errors, retries, deadlines."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2, service_pb2_grpc

from recserve_client import AsyncClient, Client, ClientOptions, item, text
from recserve_client.calls import recommend, recommend_text
from recserve_client.contract import (
    ErrorKind,
    RecommendRequest,
    RecommendTimings,
    RequestError,
    Slate,
    SlateItem,
    Unpacker,
    pack,
    split_message,
)
from recserve_client.errors import (
    ERROR_OF,
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    RecserveError,
    ServerFault,
    Unavailable,
    UnknownItem,
    from_status,
)

SLATE = Slate("r", [SlateItem("a", 0.5, [0.3, 0.2])], [], 1, "f", RecommendTimings(1, 2, 3, 4, 5))


class Server(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # generated without types
    """Answers with a slate after as many refusals as it is told."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.refusals: list[tuple[grpc.StatusCode, str]] = []
        self.answer: bytes = pack(SLATE)
        self.release = threading.Event()
        self.release.set()

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        self.release.wait(10)
        if self.refusals:
            context.abort(*self.refusals.pop(0))
        response = service_pb2.ModelInferResponse()
        response.raw_output_contents.append(struct.pack("<I", len(self.answer)) + self.answer)
        return response

    def ServerMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        return service_pb2.ServerMetadataResponse(name="triton", version="2.51.0")


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def address(server: Server) -> Iterator[str]:
    running = grpc.server(ThreadPoolExecutor(4))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(server, running)
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    yield f"127.0.0.1:{port}"
    running.stop(None).wait(5)


Ask = Callable[..., Slate]
OPTIONS = ClientOptions(pause_s=0.001, seed=1)


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, address: str) -> Ask:
    """`client.recommend` of both clients, in the same tests."""

    def blocking(*args: Any, **options: Any) -> Slate:
        with Client(address, OPTIONS) as client:
            return client.recommend(*args, **options)

    def awaiting(*args: Any, **options: Any) -> Slate:
        async def run() -> Slate:
            async with AsyncClient(address, OPTIONS) as client:
                return await client.recommend(*args, **options)

        return asyncio.run(run())

    return blocking if request.param == "sync" else awaiting


def sent(server: Server) -> dict[str, Any]:
    raw = server.requests[-1].raw_input_contents[0]
    assert struct.unpack("<I", raw[:4])[0] == len(raw) - 4
    return dict(json.loads(raw[4:]))


def test_recommend_sends_the_options_and_reads_the_slate(server: Server, ask: Ask) -> None:
    slate = ask([item("a", 2), text("b", -1)], k=3, exclude=["c"], fields=["title"], explain=False, ef=9)
    assert slate == SLATE
    assert server.requests[-1].model_name == "recommend"
    assert list(server.requests[-1].inputs[0].shape) == [1, 1]
    history = [{"item": "a", "weight": 2.0}, {"text": "b", "weight": -1.0}]
    assert sent(server) == {
        "history": history,
        "k": 3,
        "exclude": ["c"],
        "ef": 9,
        "fields": ["title"],
        "explain": False,
    }


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequest),
        (grpc.StatusCode.NOT_FOUND, UnknownItem),
        (grpc.StatusCode.CANCELLED, Cancelled),
        (grpc.StatusCode.INTERNAL, ServerFault),
        (grpc.StatusCode.UNKNOWN, ServerFault),
    ],
)
def test_each_status_is_its_error_and_is_not_tried_again(
    server: Server, ask: Ask, status: grpc.StatusCode, error: type[RecserveError]
) -> None:
    server.refusals = [(status, "unknown_item: no 'x'")]
    with pytest.raises(error) as caught:
        ask([item("x")])
    assert (caught.value.kind, caught.value.message) == (ErrorKind.UNKNOWN_ITEM, "no 'x'")
    assert caught.value.status == status.name
    assert len(server.requests) == 1


def test_unavailable_is_tried_again(server: Server, ask: Ask) -> None:
    server.refusals = [(grpc.StatusCode.UNAVAILABLE, "busy")] * 3
    assert ask([item("a")]) == SLATE
    assert len(server.requests) == 4


def test_tries_are_bounded(server: Server, ask: Ask) -> None:
    server.refusals = [(grpc.StatusCode.UNAVAILABLE, "busy")] * 9
    with pytest.raises(Unavailable, match="busy"):
        ask([item("a")])
    assert len(server.requests) == 4


def test_the_deadline_ends_a_call(server: Server, ask: Ask) -> None:
    server.release.clear()
    with pytest.raises(DeadlineExceeded):
        ask([item("a")], deadline_s=0.2)
    server.release.set()


def test_a_deadline_that_has_passed_sends_nothing(server: Server, ask: Ask) -> None:
    with pytest.raises(DeadlineExceeded):
        ask([item("a")], deadline_s=-1.0)
    assert not server.requests


def test_nobody_listens() -> None:
    with (
        Client("127.0.0.1:1", ClientOptions(tries=2, pause_s=0.001)) as client,
        pytest.raises(Unavailable),
    ):
        client.recommend([item("a")], deadline_s=5)


def test_embed_and_server_info(server: Server, address: str) -> None:
    vectors = np.arange(6, dtype=np.float32).reshape(2, 3)
    timings = {"queue_us": 0, "resolve_us": 0, "encode_us": 0}
    packed = {"vectors": base64.b64encode(vectors.tobytes()).decode(), "count": 2, "dim": 3, "encoder": "f"}
    server.answer = json.dumps({**packed, "timings": timings}).encode()
    with Client(address) as client:
        assert np.array_equal(client.embed(["a", "b"]), vectors)
        assert client.server_info().version == "2.51.0"


def test_both_clients_have_the_same_methods() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(Client) == public(AsyncClient)
    for name in public(Client) - {"run", "close"}:
        assert getattr(Client, name).__doc__ == getattr(AsyncClient, name).__doc__


def test_a_lone_surrogate_is_refused_before_it_is_sent() -> None:
    with pytest.raises(InvalidRequest, match="surrogate"):
        recommend([text("\ud800")])


def test_weights_of_texts_must_fit() -> None:
    with pytest.raises(ValueError, match="zip"):
        recommend_text(["a", "b"], weights=[1.0])


@given(
    st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.floats(-1e6, 1e6)), max_size=5),
    st.integers(1, 1000),
)
def test_what_is_packed_is_unpacked(history: list[tuple[str, float]], k: int) -> None:
    request = RecommendRequest(history=[text(*pair) for pair in history], k=k)
    assert Unpacker(RecommendRequest)(pack(request)) == request


@given(st.sampled_from(ErrorKind), st.text(max_size=30))
def test_kinds_are_read_from_messages(kind: ErrorKind, words: str) -> None:
    message = str(RequestError(kind, words))
    assert split_message(message) == (kind, words)
    assert split_message(f"in ensemble 'recommend_text', {message}") == (kind, words)


@pytest.mark.parametrize(
    "message", ["", "busy", "inference input 'x': wrong", "in ensemble 'a', b: c", "in ensemble '"]
)
def test_other_messages_have_no_kind(message: str) -> None:
    assert split_message(message) == (None, message)


def test_statuses_of_the_table() -> None:
    for status, error in ERROR_OF.items():
        assert type(from_status(status, "x")) is error


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="tries=0"):
        ClientOptions(tries=0)
    pauses = [list(ClientOptions(seed=seed).pauses()) for seed in range(50)]
    assert all(0 <= pause <= 0.05 * 2**number for row in pauses for number, pause in enumerate(row))
