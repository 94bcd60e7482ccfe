"""Requests to slates without Triton: every option, every refusal, and the numbers against a NumPy reference."""

import base64
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from recserve_client.contract import ErrorKind, RequestError, Slate, models, pack
from recserve_client.contract.recommend import Behaviour, RecommendRequest
from recserve_server_ext.batching.batcher import Batcher
from recserve_server_ext.config.server import Limits
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.recommend.job import Job
from support.calls import Call
from support.examples import examples
from support.service import Service, vector_of
from support.small_snapshot import DIM, small_snapshot


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return small_snapshot(tmp_path_factory.mktemp("small"), hidden=(5, 6))


@pytest.fixture
def service(snapshot: Snapshot) -> Service:
    return Service(snapshot, Limits(history=50, exclude=20, texts=8, text_bytes=100, request_bytes=20_000))


def reference(snapshot: Snapshot, history: list[tuple[NDArray[np.float32], float]]) -> NDArray[np.float64]:
    """Cosine of every item with the user vector, in float64."""
    user = sum(weight * vector.astype(np.float64) for vector, weight in history)
    return np.asarray(snapshot.text.vectors @ (user / np.linalg.norm(user)))


@examples(40)
@given(
    rows=st.lists(st.integers(7, 199), min_size=1, max_size=12, unique=True),
    texts=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    k=st.integers(1, 30),
    seed=st.integers(0, 1000),
)
def test_slates_equal_the_reference(snapshot: Snapshot, rows: list[int], texts: list[str], k: int, seed: int) -> None:
    service = Service(snapshot, Limits())
    weights = np.random.default_rng(seed).uniform(0.2, 2, len(rows) + len(texts)).tolist()
    named: list[dict[str, Any]] = [{"item": f"i{row}"} for row in rows] + [{"text": text} for text in texts]
    history = [{**behaviour, "weight": weight} for behaviour, weight in zip(named, weights, strict=True)]
    slate = service.ask(history=history, k=k, ef=200)
    vectors = [snapshot.text.vectors[row] for row in rows] + [vector_of(text) for text in texts]
    scores = reference(snapshot, list(zip(vectors, weights, strict=True)))
    scores[[5, 6, *rows]] = -9
    best = np.sort(scores)[::-1][:k]
    # Vectors and dot products are float32: 1e-6 covers sums of 16 products.
    assert np.allclose([item.score for item in slate.items], best, atol=2e-6)
    for item in slate.items:
        assert item.score == pytest.approx(scores[snapshot.row_of[item.id]], abs=2e-6)
        assert isinstance(item.contributions, list)
        assert len(item.contributions) == len(history)
        assert sum(item.contributions) == pytest.approx(item.score, abs=1e-5)
    assert slate.revision == 3
    assert slate.encoder == "test"


def test_exclusions_fields_and_explain(service: Service) -> None:
    first = service.ask(history=[{"item": "i9"}], k=3)
    assert "i9" not in [item.id for item in first.items]
    assert first.items[0].fields is msgspec.UNSET
    own = service.ask(history=[{"item": "i9"}], k=3, exclude_history=False, explain=False, fields=["year", "title"])
    assert own.items[0].id == "i9"
    assert own.items[0].fields == {"year": 1909, "title": "Title 9"}
    assert own.items[0].contributions is msgspec.UNSET
    others = service.ask(history=[{"item": "i9"}], k=3, exclude=[first.items[0].id, "not-there"])
    assert [item.id for item in others.items][:2] == [item.id for item in first.items][1:]


def test_k_items_come_back_whenever_k_are_allowed(service: Service) -> None:
    history = [{"item": f"i{row}"} for row in range(10, 30)]
    assert len(service.ask(history=history, k=178, ef=1).items) == 178
    assert len(service.ask(history=history, k=1000).items) == 178


def test_a_negative_weight_pushes_away(service: Service) -> None:
    liked = service.ask(history=[{"item": "i9"}, {"text": "dull", "weight": -1}], k=5)
    for item in liked.items:
        assert isinstance(item.contributions, list)
        dislike = float(vector_of("dull") @ service.snapshot.text.vectors[service.snapshot.row_of[item.id]])
        assert np.sign(item.contributions[1]) == -np.sign(dislike)


def test_texts_are_encoded_once_and_remembered(service: Service) -> None:
    one = json.dumps({"history": [{"text": "a"}, {"text": "b"}, {"text": "a"}]}).encode()
    two = json.dumps({"history": [{"text": "b"}, {"item": "i1"}]}).encode()
    service.send(one, two)
    assert service.asked == [["a", "b"]]
    service.send(one, two)
    assert len(service.asked) == 1
    assert service.recommender.counts.texts == {True: 2, False: 2}


def test_a_vector_behaviour_equals_its_text(service: Service) -> None:
    raw = base64.b64encode(vector_of("a").astype("<f4").tobytes()).decode()
    with_text, with_vector = service.ask(history=[{"text": "a"}]), service.ask(history=[{"vector": raw}])
    assert [item.id for item in with_text.items] == [item.id for item in with_vector.items]
    scores = np.array([[item.score for item in slate.items] for slate in (with_text, with_vector)])
    assert np.ptp(scores, axis=0).max() <= 1e-6


def test_unknown_items_are_skipped_on_request(service: Service) -> None:
    slate = service.ask(history=[{"item": "zz"}, {"item": "i9"}], on_unknown="ignore")
    assert slate.unknown == ["zz"]
    assert isinstance(slate.items[0].contributions, list)
    assert slate.items[0].contributions[0] == 0
    assert [i.id for i in slate.items] == [i.id for i in service.ask(history=[{"item": "i9"}]).items]


BAD_VECTORS = {
    "short": base64.b64encode(b"\0" * 8).decode(),
    "zero": base64.b64encode(np.zeros(DIM, "<f4").tobytes()).decode(),
    "nan": base64.b64encode(np.full(DIM, np.nan, "<f4").tobytes()).decode(),
    "inf": base64.b64encode(np.full(DIM, np.inf, "<f4").tobytes()).decode(),
    "text": "§§",
}
REFUSED: list[tuple[str, Any, ErrorKind, str]] = [
    ("not json", b"{", ErrorKind.INVALID_JSON, "truncated"),
    ("empty", b"", ErrorKind.INVALID_JSON, "truncated"),
    ("not utf-8", b'{"history":[{"text":"\xff"}]}', ErrorKind.INVALID_JSON, "xff"),
    ("surrogate", b'{"history":[{"text":"\\ud800"}]}', ErrorKind.INVALID_JSON, "ud800"),
    ("nan", b'{"history":[{"item":"i1","weight":NaN}]}', ErrorKind.INVALID_JSON, "invalid character"),
    ("overflow", b'{"history":[{"item":"i1","weight":1e999}]}', ErrorKind.INVALID_REQUEST, "out of range"),
    ("deep", b'{"history":' + b"[" * 5000 + b"]" * 5000 + b"}", ErrorKind.INVALID_REQUEST, "history[0]"),
    ("not an object", [1], ErrorKind.INVALID_REQUEST, "[1]"),
    ("no history", {"k": 3}, ErrorKind.EMPTY_HISTORY, "or a user_id"),
    ("unknown option", {"history": [], "explian": 1}, ErrorKind.INVALID_REQUEST, "explain"),
    ("wrong type", {"history": [{"item": 7}]}, ErrorKind.INVALID_REQUEST, "$.history[0].item is 7"),
    ("k of 0", {"history": [{"item": "i1"}], "k": 0}, ErrorKind.INVALID_REQUEST, "$.k is 0"),
    ("k of 1001", {"history": [{"item": "i1"}], "k": 1001}, ErrorKind.INVALID_REQUEST, "$.k is 1001"),
    ("k true", {"history": [{"item": "i1"}], "k": True}, ErrorKind.INVALID_REQUEST, "$.k is True"),
    ("heavy", {"history": [{"item": "i1", "weight": 1e7}]}, ErrorKind.INVALID_REQUEST, "10000000"),
    ("empty history", {"history": []}, ErrorKind.EMPTY_HISTORY, "[]"),
    ("nothing in it", {"history": [{"weight": 1}]}, ErrorKind.INVALID_REQUEST, "$.history[0]"),
    ("item and vector", {"history": [{"item": "i1", "vector": "AA=="}]}, ErrorKind.INVALID_REQUEST, "item and vector"),
    ("blank comment", {"history": [{"item": "i1", "text": " "}]}, ErrorKind.INVALID_REQUEST, "blank"),
    ("blank text", {"history": [{"text": " \n"}]}, ErrorKind.INVALID_REQUEST, "blank"),
    ("long text", {"history": [{"text": "é" * 51}]}, ErrorKind.TOO_LARGE, "text_bytes allows 100"),
    ("texts", {"history": [{"text": str(n)} for n in range(9)]}, ErrorKind.TOO_LARGE, "texts allows 8"),
    ("behaviours", {"history": [{"item": "i1"}] * 51}, ErrorKind.TOO_LARGE, "history allows 50"),
    ("exclusions", {"history": [{"item": "i1"}], "exclude": ["a"] * 21}, ErrorKind.TOO_LARGE, "exclude allows 20"),
    ("bytes", {"history": [{"text": "a" * 20_000}]}, ErrorKind.TOO_LARGE, "request_bytes allows 20,000"),
    ("zero weights", {"history": [{"item": "i1", "weight": 0}]}, ErrorKind.ZERO_WEIGHTS, "1 weights"),
    ("unknown items", {"history": [{"item": "x"}, {"item": "y"}]}, ErrorKind.UNKNOWN_ITEM, "'x', 'y'"),
    ("all skipped", {"history": [{"item": "x"}], "on_unknown": "ignore"}, ErrorKind.EMPTY_HISTORY, "none of the 1"),
    (
        "rest is zero",
        {"history": [{"item": "x"}, {"item": "i1", "weight": 0}], "on_unknown": "ignore"},
        ErrorKind.ZERO_WEIGHTS,
        "known",
    ),
    ("cancelling", {"history": [{"item": "i1"}, {"item": "i1", "weight": -1}]}, ErrorKind.VECTORS_CANCEL, "length"),
    ("unknown field", {"history": [{"item": "i1"}], "fields": ["titel"]}, ErrorKind.UNKNOWN_FIELD, "'title'"),
    *(
        (f"vector: {name}", {"history": [{"vector": raw}]}, ErrorKind.INVALID_REQUEST, "$.history[0].vector")
        for name, raw in BAD_VECTORS.items()
    ),
]


@pytest.mark.parametrize(("content", "kind", "named"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_bad_request_fails_alone(service: Service, content: Any, kind: ErrorKind, named: str) -> None:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    good = pack(RecommendRequest([Behaviour(item="i9")]))
    before, refused, after = service.send(good, raw, good)
    assert isinstance(refused, RequestError)
    assert refused.kind is kind
    assert named in refused.text
    assert len(str(refused)) < 400
    for answer in (before, after):
        assert isinstance(answer, bytes)
        assert len(msgspec.json.decode(answer, type=Slate).items) == 10


def test_an_unreachable_encoder_fails_only_those_who_need_it(service: Service) -> None:
    def broken(texts: Sequence[str], encoder: str) -> NDArray[np.float32]:
        raise RequestError(ErrorKind.UNAVAILABLE, "the encoder did not answer")

    service.encode = broken  # type: ignore[method-assign]  # the seam under test
    text, item = service.send(b'{"history":[{"text":"a"}]}', b'{"history":[{"item":"i1"}]}')
    assert isinstance(text, RequestError)
    assert text.status == "UNAVAILABLE"
    assert isinstance(item, bytes)


def test_a_fault_names_an_id_and_no_detail(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    def faulty(texts: Sequence[str], encoder: str) -> NDArray[np.float32]:
        raise OSError("secret path")

    service.encode = faulty  # type: ignore[method-assign]  # the seam under test
    (answer,) = service.send(b'{"history":[{"text":"a"}]}')
    assert isinstance(answer, RequestError)
    assert answer.kind is ErrorKind.INTERNAL
    assert "secret" not in str(answer)
    error_id = answer.text.partition("error id ")[2][:12]
    assert error_id in caplog.text


def test_an_unreadable_tensor_fails_alone(service: Service) -> None:
    answer, unread = service.send(b'{"history":[{"text":"a"}]}', RequestError(ErrorKind.WRONG_TENSOR, "x"))
    assert isinstance(answer, bytes)
    assert isinstance(unread, RequestError)


@examples(150)
@given(raw=st.binary(max_size=200) | st.text(max_size=80).map(lambda text: json.dumps({"history": text}).encode()))
def test_any_bytes_get_an_answer(snapshot: Snapshot, raw: bytes) -> None:
    (answer,) = Service(snapshot, Limits()).send(raw)
    assert isinstance(answer, RequestError)
    assert answer.kind in (ErrorKind.INVALID_JSON, ErrorKind.INVALID_REQUEST)


def test_snapshot_of_few_items(tmp_path: Path) -> None:
    service = Service(small_snapshot(tmp_path, items=2), Limits())
    assert [item.id for item in service.ask(history=[{"item": "i0"}]).items] == ["i1"]


def test_the_next_batch_is_answered_while_one_waits_for_the_encoder(service: Service) -> None:
    """A request for known items does not wait behind texts that are still being encoded."""
    started, release = threading.Event(), threading.Event()

    def slow(texts: Sequence[str], encoder: str) -> NDArray[np.float32]:
        started.set()
        assert release.wait(30)
        return np.stack([vector_of(text) for text in texts])

    model = Batcher(service.recommender, {models.ENCODER: slow}, at_once=2)
    waiting = Call(b'{"history":[{"text":"a"}]}')
    assert model.run([waiting]) == [None]
    assert started.wait(30)
    (known,) = model.run([Call(b'{"history":[{"item":"i1"}]}')])
    assert isinstance(known, bytes)
    assert not waiting.answers
    release.set()
    model.close()
    assert isinstance(waiting.answers[0], bytes)


def test_a_fault_while_accepting_fails_alone(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    accept = service.recommender.accept

    def faulty(raw: bytes) -> Job:
        if b"i2" in raw:
            raise OSError("secret path")
        return accept(raw)

    monkeypatch.setattr(service.recommender, "accept", faulty)
    good, bad = service.send(b'{"history":[{"item":"i1"}]}', b'{"history":[{"item":"i2"}]}')
    assert isinstance(good, bytes)
    assert isinstance(bad, RequestError)
    assert bad.kind is ErrorKind.INTERNAL


@pytest.mark.parametrize(
    "slate",
    [
        {"pins": [{"item": "i20", "place": 1}]},
        {"pins": [{"item": "i20", "place": 1}], "min_score": 0.9},
        {"diversify": 0.5, "pins": [{"item": "i20", "place": 3}]},
    ],
)
@pytest.mark.parametrize("options", [{}, {"interests": 3}, {"explore": {"epsilon": 0.5}}, {"page": {"size": 2}}])
def test_pins_where_nothing_else_is_left(service: Service, slate: dict[str, Any], options: dict[str, Any]) -> None:
    if "diversify" in slate and "interests" in options:
        pytest.skip("they exclude each other")
    everything = [f"i{row}" for row in range(200)]
    service = Service(service.snapshot, Limits(exclude=200))
    found = service.ask(history=[{"item": "i8"}], slate=slate, exclude=everything, **options)
    assert found.items == []
    others = [name for name in everything if name != "i20"]
    found = service.ask(history=[{"item": "i8"}], slate=slate, exclude=others, **options)
    assert [item.id for item in found.items] == ["i20"]
