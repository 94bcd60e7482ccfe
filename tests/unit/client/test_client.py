"""Both clients against a small gRPC server of the same protocol: results, errors, retries, deadlines."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import struct
import time
from collections.abc import Callable
from typing import Any, assert_type, get_args

import grpc
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from recserve_client import AsyncClient, Client, ClientOptions, ServerInfo, item, reasons, text
from recserve_client.calls import recommend, recommend_text
from recserve_client.contract import (
    AnswerForm,
    Behaviour,
    ErrorKind,
    RecommendRequest,
    RequestError,
    Slate,
    SlateItem,
    Unpacker,
    pack,
    pack_answer,
    split_message,
)
from recserve_client.contract.addresses import channel_options, is_this_machine, proxy_in_the_way
from recserve_client.errors import (
    ERROR_OF,
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    Overloaded,
    RecserveError,
    ServerFault,
    StaleRevision,
    Unavailable,
    UnknownItem,
    from_status,
)
from support.inference_server import SLATE, InferenceServer

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


def sent(server: InferenceServer) -> dict[str, Any]:
    raw = server.requests[-1].raw_input_contents[0]
    assert struct.unpack("<I", raw[:4])[0] == len(raw) - 4
    return dict(json.loads(raw[4:]))


def test_recommend_sends_the_options_and_reads_the_slate(server: InferenceServer, ask: Ask) -> None:
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
        "accept": "msgpack",
    }


@pytest.mark.parametrize("form", get_args(AnswerForm))
def test_either_form_of_an_answer_is_read(server: InferenceServer, ask: Ask, form: AnswerForm) -> None:
    large = msgspec.structs.replace(SLATE, items=[SlateItem("a", 0.1, fields={"id": 2**70, "\n": [None, "ü"]})])
    for slate in (SLATE, large, msgspec.structs.replace(SLATE, items=[])):
        server.answer = pack_answer(slate, form)
        assert ask([item("a")]) == slate
    assert pack_answer(large, "msgpack") == pack(large), "MessagePack has integers up to 64 bits"
    assert (pack_answer(SLATE, form) == pack(SLATE)) == (form == "json")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequest),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, InvalidRequest),
        (grpc.StatusCode.NOT_FOUND, UnknownItem),
        (grpc.StatusCode.CANCELLED, Cancelled),
        (grpc.StatusCode.INTERNAL, ServerFault),
        (grpc.StatusCode.UNKNOWN, ServerFault),
    ],
)
def test_each_status_is_its_error_and_is_not_tried_again(
    server: InferenceServer, ask: Ask, status: grpc.StatusCode, error: type[RecserveError]
) -> None:
    server.refusals = [(status, "unknown_item: no 'x'")]
    with pytest.raises(error) as caught:
        ask([item("x")])
    assert (caught.value.kind, caught.value.message) == (ErrorKind.UNKNOWN_ITEM, "no 'x'")
    assert caught.value.status == status.name
    assert len(server.requests) == 1


def test_unavailable_is_tried_again(server: InferenceServer, ask: Ask) -> None:
    server.refusals = [(grpc.StatusCode.UNAVAILABLE, "busy")] * 3
    assert ask([item("a")]) == SLATE
    assert len(server.requests) == 4


def test_tries_are_bounded(server: InferenceServer, ask: Ask) -> None:
    server.refusals = [(grpc.StatusCode.UNAVAILABLE, "busy")] * 9
    with pytest.raises(Unavailable, match="busy"):
        ask([item("a")])
    assert len(server.requests) == 4


def test_a_revision_that_the_server_waited_for_is_not_asked_for_again(server: InferenceServer, ask: Ask) -> None:
    server.refusals = [(grpc.StatusCode.UNAVAILABLE, "stale_revision: min_revision is 9")] * 9
    with pytest.raises(StaleRevision, match="min_revision is 9"):
        ask([item("a")], min_revision=9)
    assert len(server.requests) == 1


def test_the_deadline_ends_a_call(server: InferenceServer, ask: Ask) -> None:
    server.release.clear()
    with pytest.raises(DeadlineExceeded):
        ask([item("a")], deadline_s=0.2)
    server.release.set()


def test_a_deadline_that_has_passed_sends_nothing(server: InferenceServer, ask: Ask) -> None:
    with pytest.raises(DeadlineExceeded):
        ask([item("a")], deadline_s=-1.0)
    assert not server.requests


def test_nobody_listens() -> None:
    with (
        Client("127.0.0.1:1", ClientOptions(tries=2, pause_s=0.001)) as client,
        pytest.raises(Unavailable),
    ):
        client.recommend([item("a")], deadline_s=5)


def test_embed_reads_vectors(server: InferenceServer, address: str) -> None:
    vectors = np.arange(6, dtype=np.float32).reshape(2, 3)
    timings = {"queue_us": 0, "resolve_us": 0, "encode_us": 0}
    packed = {"vectors": base64.b64encode(vectors.tobytes()).decode(), "count": 2, "dim": 3, "encoder": "f"}
    server.answer = json.dumps({**packed, "timings": timings}).encode()
    with Client(address) as client:
        assert np.array_equal(client.embed(["a", "b"]), vectors)
    server.answer = json.dumps({**packed, "count": 3, "timings": timings}).encode()
    with Client(address) as client, pytest.raises(ServerFault, match="vectors of another size"):
        client.embed(["a", "b"])


def test_server_info_says_who_answers_and_from_what(server: InferenceServer, address: str) -> None:
    with Client(address) as client:
        assert client.server_info() == ServerInfo("triton", "2.51.0", encoder="f", revision=1)
    assert asyncio.run(awaited(address)) == ServerInfo("triton", "2.51.0", encoder="f", revision=1)


async def awaited(address: str) -> ServerInfo:
    async with AsyncClient(address) as client:
        assert await client.ready()
        return await client.server_info()


def test_an_async_client_works_in_a_second_event_loop(address: str) -> None:
    client = AsyncClient(address)

    async def ask() -> ServerInfo:
        return await client.server_info()

    async def ask_and_close() -> ServerInfo:
        async with client:
            return await client.server_info()

    assert asyncio.run(ask()) == asyncio.run(ask()) == asyncio.run(ask_and_close()) == asyncio.run(ask())


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_connections_to_this_machine_ignore_proxies(
    server: InferenceServer, ask: Ask, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    assert ask([item("a")]).recommendation_id == "r"


@pytest.mark.parametrize(
    ("address", "is_here"),
    [
        ("127.0.0.1:8001", True),
        ("localhost:8001", True),
        ("[::1]:8001", True),
        ("0.0.0.0:8001", True),
        ("[::]:8001", True),
        ("dns:///localhost:8001", True),
        ("ipv6:[::1]:8001", True),
        ("unix:/run/x.sock", True),
        ("localhost", True),
        ("192.0.2.1:8001", False),
        ("localhost.example:8001", False),
        ("127.0.0.1.example:8001", False),
        ("recserve:8001", False),
    ],
)
def test_addresses_of_this_machine(address: str, is_here: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert is_this_machine(address) == is_here
    assert bool(channel_options(address)) == is_here
    assert proxy_in_the_way(address) == ("" if is_here else "https_proxy")


def test_a_proxy_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://user:word@127.0.0.1:9")
    options = ClientOptions(tries=2, pause_s=0.001)
    with Client("recserve.invalid:8001", options) as client, pytest.raises(Unavailable, match="http_proxy") as caught:
        client.recommend([item("a")], deadline_s=5)
    assert "word" not in str(caught.value)


@pytest.mark.parametrize("status", [grpc.StatusCode.INTERNAL, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE])
def test_ready_makes_a_recommendation(server: InferenceServer, address: str, status: grpc.StatusCode) -> None:
    with Client(address, OPTIONS) as client:
        assert client.ready()
        assert server.requests[-1].model_name == "recommend_text"
        server.refusals = [(status, "Stub process 'recommend_0_0' is not healthy.")] * 4
        assert not client.ready()


@pytest.mark.parametrize("answer", [b"", b"{", b"{}", b"\xff", b'{"text": "another server"}'])
def test_what_is_no_slate_is_a_fault_of_the_server(server: InferenceServer, ask: Ask, answer: bytes) -> None:
    server.answer = answer
    with pytest.raises(ServerFault, match="is this a recserve server"):
        ask([item("a")])


def test_both_clients_have_the_same_methods() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(Client) == public(AsyncClient)
    for name in public(Client) - {"run", "close"}:
        assert getattr(Client, name).__doc__ == getattr(AsyncClient, name).__doc__


def test_a_lone_surrogate_is_refused_before_it_is_sent() -> None:
    with pytest.raises(InvalidRequest, match="surrogate"):
        recommend([text("\ud800")])


@pytest.mark.parametrize("weights", [[1.0], [], [1.0, 2.0, 3.0]])
def test_weights_of_texts_must_fit(weights: list[float]) -> None:
    with pytest.raises(InvalidRequest, match=f"{len(weights)} weights for 2 texts"):
        recommend_text(["a", "b"], weights=weights)


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf])
def test_weights_that_json_cannot_carry_are_refused_by_name(weight: float) -> None:
    with pytest.raises(InvalidRequest, match=rf"history\[1\].weight is {weight}") as caught:
        recommend([item("a"), item("b", weight)])
    assert caught.value.kind is ErrorKind.INVALID_REQUEST
    with pytest.raises(InvalidRequest, match=rf"history\[1\].weight is {weight}"):
        recommend_text(["a", "b"], weights=[1.0, weight])


@given(st.lists(st.floats(-1, 1), max_size=9))
def test_reasons_are_all_contributions_the_largest_first(shares: list[float]) -> None:
    history = [Behaviour(item=str(place)) for place in range(len(shares))]
    found = reasons(SlateItem("a", sum(shares), shares), history)
    assert {(int(reason.behaviour.item or ""), reason.contribution) for reason in found} == set(enumerate(shares))
    sizes = [abs(reason.contribution) for reason in found]
    assert sizes == sorted(sizes, reverse=True)


def test_reasons_need_the_history_of_the_request() -> None:
    assert reasons(SlateItem("a", 0.5), [item("x")]) == []
    with pytest.raises(ValueError, match="2 contributions for 1 behaviours"):
        reasons(SLATE.items[0], [item("x")])


def test_not_found_without_unknown_items_is_general() -> None:
    assert type(from_status("NOT_FOUND", "Request for unknown model: 'recommend' is not found")) is NotFound
    assert type(from_status("NOT_FOUND", "unknown_item: 'x'")) is UnknownItem
    # The status decides: a kind does not make a fault of the server an error of the caller.
    assert type(from_status("INTERNAL", "unknown_item: 'x'")) is ServerFault


async def types_that_callers_see(client: Client, aclient: AsyncClient) -> None:
    """Checked by mypy, never called."""
    assert_type(client.recommend([item("a")]), Slate)
    assert_type(await aclient.recommend([item("a")]), Slate)
    assert_type(client.embed(["a"]), NDArray[np.float32])
    assert_type(await aclient.ready(), bool)


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


def test_a_request_says_how_long_its_caller_waits(server: InferenceServer, ask: Ask) -> None:
    ask([item("a")], deadline_s=2.0)
    assert 1_000_000 < server.requests[-1].parameters["timeout"].int64_param <= 2_000_000


def test_an_overloaded_server_is_tried_again_when_it_says(server: InferenceServer, ask: Ask) -> None:
    server.refusals = [(grpc.StatusCode.UNAVAILABLE, "overloaded: retry_after_ms=30; the queue is full")]
    start = time.monotonic()
    assert ask([item("a")]) == SLATE
    assert time.monotonic() - start >= 0.03
    assert len(server.requests) == 2


def test_an_overloaded_server_without_time_before_the_deadline_is_an_error(server: InferenceServer, ask: Ask) -> None:
    server.refusals = [(grpc.StatusCode.UNAVAILABLE, "overloaded: retry_after_ms=60000; the queue is full")]
    with pytest.raises(Overloaded, match="the queue is full") as caught:
        ask([item("a")])
    assert caught.value.retry_after_ms == 60_000
    assert len(server.requests) == 1


def test_retries_are_a_share_of_the_calls(server: InferenceServer, address: str) -> None:
    server.refusals = [(grpc.StatusCode.UNAVAILABLE, "busy")] * 1000
    with Client(address, OPTIONS) as client:
        for _ in range(100):
            with pytest.raises(Unavailable):
                client.recommend([item("a")])
    assert len(server.requests) == 100 + 10 + 9  # ten in reserve; each call earns a tenth, not above ten


def test_pauses_after_a_refusal_are_spread() -> None:
    pauses = [ClientOptions(seed=seed).pause_after(2.0) for seed in range(50)]
    assert all(2 <= pause <= 4 for pause in pauses)
    assert max(pauses) - min(pauses) > 1


@pytest.mark.parametrize("told", ["", "retry_after_ms=;", "retry_after_ms=-1;", "soon"])
def test_a_refusal_may_say_no_time(told: str) -> None:
    error = from_status("UNAVAILABLE", f"overloaded: {told}")
    assert isinstance(error, Overloaded)
    assert error.retry_after_ms is None
