"""Requests to a real Triton: every option and every bad input, over the wire; the server answers afterwards."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from recserve_client.contract import AnswerForm, AnswerReader, Slate
from recserve_client.contract.models import of_encoder
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.encoder.selection import choose_encoder
from recserve_server_ext.encoder.text_encoder import TextEncoder
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot import Snapshot
from support.wire import RawTensor, Wire, element

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def snapshot(tiny_home: Path) -> Snapshot:
    return Snapshot.load(current(Workspace(tiny_home).snapshots))


@pytest.fixture(scope="module")
def encoder(tiny_home: Path) -> TextEncoder:
    return TextEncoder(choose_encoder(Workspace(tiny_home), "fp32"))


@pytest.fixture(autouse=True)
def alive_afterwards(wire: Wire, snapshot: Snapshot) -> Iterator[None]:
    """After every test the models answer a good request."""
    yield
    assert len(wire.ask("recommend", {"history": [{"item": snapshot.ids[0]}], "k": 3})["items"]) == 3
    assert len(wire.ask("recommend_text", {"history": [{"text": "war"}], "k": 3})["items"]) == 3
    assert wire.ask("embed", {"texts": ["war"]})["count"] == 1


def test_a_slate_equals_the_reference(wire: Wire, snapshot: Snapshot, encoder: TextEncoder) -> None:
    ids = snapshot.ids
    history = [{"item": ids[3]}, {"text": "space war", "weight": 2}, {"item": ids[7], "weight": -0.5}]
    slate = wire.ask("recommend", {"history": history, "k": 10, "fields": ["title"]})
    vectors = [snapshot.text.vectors[3], encoder.encode(["space war"])[0], snapshot.text.vectors[7]]
    user = np.average(np.array(vectors, np.float64), axis=0, weights=[1, 2, -0.5])
    scores = snapshot.text.vectors @ (user / np.linalg.norm(user))
    scores[[3, 7]] = -9
    # float32 throughout, and the encoder's own 1e-5 between batches.
    assert np.allclose([item["score"] for item in slate["items"]], np.sort(scores)[::-1][:10], atol=2e-5)
    for item in slate["items"]:
        assert sum(item["contributions"]) == pytest.approx(item["score"], abs=1e-5)
        assert item["fields"]["title"]
    assert slate["revision"] == snapshot.manifest.revision
    assert slate["encoder"] == snapshot.manifest.encoder
    assert slate["timings"].pop("engine") == "hnsw"
    assert set(slate["timings"]) == {"queue_us", "resolve_us", "encode_us", "search_us", "explain_us"}
    assert all(isinstance(value, int) and value >= 0 for value in slate["timings"].values())
    assert len(slate["recommendation_id"]) == 32


@pytest.mark.parametrize("model", ["recommend", "recommend_text"])
def test_the_walk_of_a_request(wire: Wire, snapshot: Snapshot, model: str) -> None:
    body = {"history": [{"text": "space war"}], "k": 3, "exclude": [snapshot.ids[1]]}
    ids = [item["id"] for item in wire.ask(model, {**body, "k": 4})["items"]]
    slate = wire.ask(model, {**body, "walk": {"items": [ids[0], ids[3], snapshot.ids[1], "nowhere"]}})
    walk, timings = slate["walk"], slate["timings"]
    found = [(item["id"], item["verdict"]) for item in walk["items"]]
    assert found[0] == (ids[0], "in_slate")
    assert found[1] in [(ids[3], "outranked"), (ids[3], "not_proposed")]
    assert found[2:] == [(snapshot.ids[1], "excluded"), ("nowhere", "not_in_catalogue")]
    took = {stage["name"]: stage["took_us"] for stage in walk["stages"]}
    assert took["candidates"] + took["score"] + took["rules"] == pytest.approx(timings["search_us"], abs=3)
    assert [(source["name"], source["in_slate"]) for source in walk["sources"]] == [("text", 3)]


def test_ids_of_answers_differ(wire: Wire, snapshot: Snapshot) -> None:
    body = {"history": [{"item": snapshot.ids[0]}]}
    with ThreadPoolExecutor(8) as threads:
        ids = list(threads.map(lambda _: wire.ask("recommend", body)["recommendation_id"], range(64)))
    assert len(set(ids)) == 64


def test_the_ensemble_equals_the_direct_way(wire: Wire) -> None:
    history = [
        {"text": "a heist"},
        {"text": "the lion"},
        {"text": "a heist", "weight": 0.5},
        {"text": "x", "weight": -1},
    ]
    body = {"history": history, "k": 20, "fields": ["title"]}
    direct, ensemble = wire.ask("recommend", body), wire.ask("recommend_text", body)
    assert [item["id"] for item in direct["items"]] == [item["id"] for item in ensemble["items"]]
    for one, other in zip(direct["items"], ensemble["items"], strict=True):
        # The vector is normalised once more on its way through the ensemble.
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)
        assert np.allclose(one["contributions"], other["contributions"], atol=1e-5)


def test_a_vector_does_not_depend_on_its_batch(wire: Wire, encoder: TextEncoder) -> None:
    """Mixed concurrent requests of many lengths give each text the vector it has alone."""
    rng = np.random.default_rng(5)
    words = ["war", "love", "star", "lion", "king", "space", "heist", "robot", "child", "old", "of", "the", "in"]
    texts = [" ".join(rng.choice(words, rng.integers(1, 40))) for _ in range(60)]
    alone = {text: encoder.encode([text])[0] for text in texts}

    def embed(seed: int) -> float:
        chosen = np.random.default_rng(seed).choice(texts, np.random.default_rng(seed).integers(1, 30)).tolist()
        answer = wire.ask("embed", {"texts": chosen})
        vectors = np.frombuffer(base64.b64decode(answer["vectors"]), "<f4").reshape(answer["count"], answer["dim"])
        return float(np.abs(vectors - np.stack([alone[text] for text in chosen])).max())

    with ThreadPoolExecutor(16) as threads:
        assert max(threads.map(embed, range(64))) <= 1e-5


def test_good_requests_beside_bad_ones_are_answered(wire: Wire, snapshot: Snapshot) -> None:
    bodies: list[Any] = [
        {"history": [{"item": snapshot.ids[1]}]},
        {"history": [{"item": "nobody knows"}]},
        {"history": [{"text": "war"}]},
        b"{",
        {"history": [{"item": snapshot.ids[1]}, {"item": snapshot.ids[1], "weight": -1}]},
    ] * 12

    def send(body: Any) -> bool:
        try:
            return len(wire.ask("recommend", body)["items"]) == 10
        except Exception:
            return False

    with ThreadPoolExecutor(32) as threads:
        assert list(threads.map(send, bodies)) == [True, False, True, False, False] * 12


BAD: list[tuple[str, Any, str, str]] = [
    ("invalid JSON", b'{"history": [', "INVALID_ARGUMENT", "invalid_json: "),
    ("NUL bytes", b"\0" * 10, "INVALID_ARGUMENT", "invalid_json: "),
    ("invalid UTF-8", b'{"history":[{"text":"\xff\xfe"}]}', "INVALID_ARGUMENT", "invalid_json: "),
    ("lone surrogate", b'{"history":[{"text":"\\ud800"}]}', "INVALID_ARGUMENT", "invalid_json: "),
    ("deep nesting", b'{"history":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "INVALID_ARGUMENT", "invalid_"),
    ("deep in an unknown option", b'{"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "INVALID_ARGUMENT", "'x'"),
    ("unknown option", {"history": [], "kk": 1}, "INVALID_ARGUMENT", "'kk'"),
    ("wrong type", {"history": "x"}, "INVALID_ARGUMENT", "$.history is 'x'"),
    ("NaN", b'{"history":[{"text":"a","weight":NaN}]}', "INVALID_ARGUMENT", "NaN"),
    ("infinity", b'{"history":[{"text":"a","weight":1e400}]}', "INVALID_ARGUMENT", "$.history[0].weight"),
    ("k of 0", {"history": [{"text": "a"}], "k": 0}, "INVALID_ARGUMENT", "$.k is 0"),
    ("k of 1001", {"history": [{"text": "a"}], "k": 1001}, "INVALID_ARGUMENT", "$.k is 1001"),
    ("ef of 0", {"history": [{"text": "a"}], "ef": 0}, "INVALID_ARGUMENT", "$.ef is 0"),
    ("unknown items", {"history": [{"item": "q1"}, {"item": "q2"}]}, "NOT_FOUND", "'q1', 'q2'"),
    ("empty history", {"history": []}, "INVALID_ARGUMENT", "empty_history: "),
    ("zero weights", {"history": [{"text": "a", "weight": 0}]}, "INVALID_ARGUMENT", "zero_weights: "),
    (
        "cancelling",
        {"history": [{"text": "a"}, {"text": "a", "weight": -1}]},
        "INVALID_ARGUMENT",
        "vectors_cancel: ",
    ),
    ("10 MB of text", {"history": [{"text": "a" * 10_000_000}]}, "INVALID_ARGUMENT", "too_large: "),
    ("1 MB of text", {"history": [{"text": "a" * 1_000_000}]}, "INVALID_ARGUMENT", "1,000,000 bytes"),
    ("100,000 behaviours", {"history": [{"text": "a"}] * 100_000}, "INVALID_ARGUMENT", "history has 100,000 "),
    ("form", {"history": [{"text": "a"}], "accept": "xml"}, "INVALID_ARGUMENT", "$.accept is 'xml'"),
    ("unknown field", {"history": [{"text": "a"}], "fields": ["titel"]}, "INVALID_ARGUMENT", "'title'"),
]


@pytest.mark.parametrize(("body", "status", "named"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_input_is_refused(wire: Wire, body: Any, status: str, named: str) -> None:
    found, message = wire.refused("recommend", body)
    assert found == status
    assert named in message
    assert len(message) < 500
    assert ".py" not in message


@pytest.mark.parametrize("row", [row for row in BAD if row[0] not in ("unknown items",)], ids=lambda row: row[0])
def test_bad_input_to_the_ensemble_is_refused(wire: Wire, row: tuple[str, Any, str, str]) -> None:
    found, message = wire.refused("recommend_text", row[1])
    assert found == row[2]
    assert row[3] in message


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"nonsense", "invalid_json: "),
        ({"texts": []}, "[]"),
        ({"texts": ["", "a"]}, "text 0"),
        ({"texts": ["a"] * 257}, "257"),
        ({"texts": [1]}, "$.texts[0] is 1"),
    ],
)
def test_bad_embed_input_is_refused(wire: Wire, body: Any, named: str) -> None:
    status, message = wire.refused("embed", body)
    assert status == "INVALID_ARGUMENT"
    assert named in message


GOOD = element(b'{"history":[{"text":"a"}]}')
HUGE = 2**61
TENSORS: list[tuple[str, str, list[RawTensor]]] = [
    ("wrong name", "recommend", [("req", "BYTES", (1, 1), GOOD)]),
    ("no tensor", "recommend", []),
    ("two tensors", "recommend", [("request", "BYTES", (1, 1), GOOD), ("more", "BYTES", (1, 1), GOOD)]),
    ("wrong dtype", "recommend", [("request", "INT64", (1, 1), b"\0" * 8)]),
    ("wrong rank", "recommend", [("request", "BYTES", (1, 1, 1), GOOD)]),
    ("wrong width", "recommend", [("request", "BYTES", (1, 2), GOOD * 2)]),
    ("two elements", "recommend", [("request", "BYTES", (2, 1), GOOD * 2)]),
    ("no element", "recommend", [("request", "BYTES", (0, 1), b"")]),
    ("negative", "recommend", [("request", "BYTES", (-1, 1), GOOD)]),
    ("no content", "recommend", [("request", "BYTES", (1, 1), b"")]),
    ("long prefix", "recommend", [("request", "BYTES", (1, 1), struct.pack("<I", 2**32 - 1) + b"{}")]),
    ("short prefix", "recommend", [("request", "BYTES", (1, 1), struct.pack("<I", 1) + b"{}")]),
    ("cut prefix", "recommend", [("request", "BYTES", (1, 1), b"\1")]),
    ("huge batch", "recommend", [("request", "BYTES", (HUGE, 1), b"")]),
    ("huge for embed", "embed", [("request", "BYTES", (HUGE, 1), b"")]),
    ("huge for the ensemble", "recommend_text", [("request", "BYTES", (HUGE, 1), b"")]),
    ("huge for tokenize", "tokenize_", [("request", "BYTES", (1, HUGE), b"")]),
    (
        "huge ids",
        "encoder",
        [("input_ids", "INT64", (1, HUGE), b""), ("attention_mask", "INT64", (1, HUGE), b"")],
    ),
    (
        "huge ids behind the ensemble",
        "encoder_",
        [("input_ids", "INT64", (1, HUGE), b""), ("attention_mask", "INT64", (1, HUGE), b"")],
    ),
    (
        "huge batch of ids",
        "encoder",
        [("input_ids", "INT64", (HUGE, 64), b""), ("attention_mask", "INT64", (HUGE, 64), b"")],
    ),
    (
        "ids out of range",
        "encoder",
        [("input_ids", "INT64", (1, 64), b"\xff" * 512), ("attention_mask", "INT64", (1, 64), b"\1" + b"\0" * 511)],
    ),
    (
        "huge for pool",
        "pool_",
        [("request_rows", "BYTES", (HUGE, 1), b""), ("vector", "FP32", (HUGE, 32), b"")],
    ),
    (
        "mismatch in pool",
        "pool_",
        [("request_rows", "BYTES", (2, 1), GOOD + element(b"")), ("vector", "FP32", (2, 32), b"\0" * 256)],
    ),
]


@pytest.mark.parametrize(("model", "tensors"), [row[1:] for row in TENSORS], ids=[row[0] for row in TENSORS])
def test_wrong_tensors_are_refused(wire: Wire, snapshot: Snapshot, model: str, tensors: list[RawTensor]) -> None:
    if model.endswith("_"):
        model = of_encoder(model[:-1], snapshot.manifest.encoder)
    status, message = wire.refused_tensors(model, tensors)
    assert status == "INVALID_ARGUMENT"
    assert message


def test_an_unknown_model_is_not_found(wire: Wire) -> None:
    assert wire.refused("recommendd", {"history": []})[0] in ("NOT_FOUND", "UNAVAILABLE")


@pytest.mark.parametrize("model", ["recommend", "recommend_text"])
def test_both_forms_of_an_answer_are_the_same_slate(wire: Wire, model: str) -> None:
    body = {"history": [{"text": "war"}, {"text": "love", "weight": 0.5}], "k": 5, "fields": ["title", "year"]}
    read, of_form = AnswerReader(Slate), {}
    for form in get_args(AnswerForm):
        raw = json.dumps({**body, "accept": form}).encode()
        answer = wire.infer(model, [("request", "BYTES", (1, 1), element(raw))]).raw_output_contents[0][4:]
        assert answer.startswith(b"{") == (form == "json")
        of_form[form] = read(answer)
    as_json, as_msgpack = of_form.values()
    assert [one.id for one in as_json.items] == [one.id for one in as_msgpack.items]
    # The encoder's own 1e-5 between batches.
    for one, other in zip(as_json.items, as_msgpack.items, strict=True):
        assert one.score == pytest.approx(other.score, abs=2e-5)
        assert one.contributions == pytest.approx(other.contributions, abs=2e-5)
        assert one.fields == other.fields
    assert (as_json.strategy, as_json.encoder, as_json.revision) == (
        as_msgpack.strategy, as_msgpack.encoder, as_msgpack.revision,
    )  # fmt: skip


def test_the_json_form_of_a_request_is_enough(wire: Wire, snapshot: Snapshot) -> None:
    """A load generator's data file has the content as text: whitespace and key order do not matter."""
    body = json.dumps({"k": 2, "history": [{"weight": 1, "item": snapshot.ids[2]}]}, indent=2).encode()
    assert len(wire.ask("recommend", body)["items"]) == 2
