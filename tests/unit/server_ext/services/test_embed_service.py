"""Embed requests, the ensemble's own steps and the checks of the encoder model."""

import base64
import json
from typing import Any

import msgspec
import numpy as np
import pytest

from recserve_client.contract import EmbedResponse, ErrorKind, RequestError, models
from recserve_client.contract.recommend import RecommendRequest
from recserve_server_ext.batching.batcher import Batcher, ModelCall
from recserve_server_ext.config.server import Limits
from recserve_server_ext.encoder.text_encoder import TextEncoder
from recserve_server_ext.services.embed import Embedder
from recserve_server_ext.services.encoder import EncoderModel
from recserve_server_ext.services.recommend_text import texts_of, with_vectors
from support.calls import Call
from support.exports import Exports


@pytest.fixture(scope="module")
def encoder(exports: Exports) -> TextEncoder:
    return TextEncoder(exports.encoders("fp32") / "encoder" / "fp32")


def test_embed_gives_the_encoders_vectors(encoder: TextEncoder) -> None:
    embedder = Embedder(lambda: "print", Limits())
    embedder.begin()
    raws = [json.dumps({"texts": ["a", "star wars", "a"]}).encode(), b'{"texts":["b"]}']
    accepted = [embedder.accept(raw) for raw in raws]
    asked: list[list[str]] = []

    def encode(texts: Any, fingerprint: str) -> Any:
        assert fingerprint == "print"
        asked.append(list(texts))
        return encoder.encode(texts)

    calls = [call for job in accepted if (call := embedder.pending(job))]
    distinct = list(dict.fromkeys(text for call in calls for text in call.inputs))
    call = ModelCall(models.ENCODER, "print", distinct)
    embedder.resume(accepted, call, encode(call.inputs, call.version), 0)
    assert [embedder.pending(job) for job in accepted] == [None, None]
    assert asked == [["a", "star wars", "b"]]
    first, _ = [
        msgspec.json.decode(raw, type=EmbedResponse) for raw in embedder.answer(accepted) if isinstance(raw, bytes)
    ]
    vectors = np.frombuffer(base64.b64decode(first.vectors), "<f4").reshape(first.count, first.dim)
    assert np.allclose(vectors, encoder.encode(["a", "star wars", "a"]), atol=1e-6)
    assert first.encoder == "print"


def test_a_batch_is_encoded_at_once_and_nothing_is_left_open() -> None:
    asked: list[list[str]] = []

    def encode(texts: Any, _: str) -> Any:
        asked.append(list(texts))
        return np.ones((len(texts), 2), np.float32)

    model = Batcher(Embedder(lambda: "print", Limits()), {models.ENCODER: encode}, at_once=0)
    calls = [Call(raw) for raw in (b'{"texts":["a"]}', b"{", b'{"texts":["b","a"]}')]
    first, refused, second = model.run(calls)
    model.close()
    assert asked == [["a", "b"]]
    assert [
        msgspec.json.decode(one, type=EmbedResponse).count for one in (first, second) if isinstance(one, bytes)
    ] == [
        1,
        2,
    ]
    assert isinstance(refused, RequestError)
    assert [call.answers for call in calls] == [[], [], []]


def test_an_encoder_that_is_away_fails_what_needs_it() -> None:
    def encode(texts: Any, _: str) -> Any:
        raise RequestError(ErrorKind.UNAVAILABLE, f"{len(texts)} texts: away")

    model = Batcher(Embedder(lambda: "print", Limits()), {models.ENCODER: encode}, at_once=0)
    answers = model.run([Call(b'{"texts":["a"]}'), Call(b"{"), Call(b'{"texts":["b"]}')])
    model.close()
    kinds = [answer.kind for answer in answers if isinstance(answer, RequestError)]
    assert kinds == [ErrorKind.UNAVAILABLE, ErrorKind.INVALID_JSON, ErrorKind.UNAVAILABLE]


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b'{"texts":[]}', ErrorKind.INVALID_REQUEST),
        (b'{"texts":[""]}', ErrorKind.INVALID_REQUEST),
        (b'{"texts":"a"}', ErrorKind.INVALID_REQUEST),
        (b'{"texts":["' + b"a" * 33_000 + b'"]}', ErrorKind.TOO_LARGE),
        (json.dumps({"texts": ["a"] * 257}).encode(), ErrorKind.TOO_LARGE),
        (b"{", ErrorKind.INVALID_JSON),
    ],
)
def test_embed_refuses(raw: bytes, kind: ErrorKind) -> None:
    with pytest.raises(RequestError) as caught:
        Embedder(lambda: "print", Limits()).accept(raw)
    assert caught.value.kind is kind


def test_ensemble_steps_keep_the_request() -> None:
    raw = json.dumps({"history": [{"text": "a", "weight": -2}, {"text": "b"}], "k": 3, "fields": ["x"]}).encode()
    assert texts_of(raw, Limits()) == ["a", "b"]
    vectors = np.arange(8, dtype=np.float32).reshape(2, 4)
    request = msgspec.json.decode(with_vectors(raw, vectors, "print"), type=RecommendRequest)
    assert (request.k, request.fields, [b.weight for b in request.history]) == (3, ["x"], [-2, 1])
    assert request.encoder == "print"
    assert base64.b64decode(request.history[1].vector or "") == vectors[1].tobytes()
    with pytest.raises(RequestError, match="3 vectors for 2 behaviours"):
        with_vectors(raw, np.zeros((3, 4), np.float32), "print")


@pytest.mark.parametrize("behaviour", [{"item": "a"}, {"vector": "aa"}, {"text": "a", "vector": "aa"}, {}])
def test_the_ensemble_takes_texts_only(behaviour: dict[str, str]) -> None:
    with pytest.raises(RequestError, match=r"history\[1\].*send others to `recommend`"):
        texts_of(json.dumps({"history": [{"text": "a"}, behaviour]}).encode(), Limits())


def test_encoder_model_checks_and_splits(encoder: TextEncoder) -> None:
    model = EncoderModel(encoder)
    tokens = encoder.tokenizer(["star wars", "a", "the lion king"])
    ids = np.pad(tokens.ids, ((0, 0), (0, 64 - tokens.ids.shape[1])))
    mask = np.pad(tokens.mask, ((0, 0), (0, 64 - tokens.mask.shape[1])))
    requests = [(ids[:1], model.check(ids[:1], mask[:1])), (ids[1:], model.check(ids[1:], mask[1:]))]
    first, rest = model.run(requests)
    assert np.allclose(np.concatenate([first, rest]), encoder.encode(["star wars", "a", "the lion king"]), atol=1e-6)


@pytest.mark.parametrize(
    ("ids", "mask", "named"),
    [
        ([[-1, 2]], [[1, 1]], "-1"),
        ([[1, 10**9]], [[1, 1]], "1000000000"),
        ([[1, 2]], [[0, 1]], "ones and then zeros"),
        ([[1, 2]], [[2, 0]], "ones and then zeros"),
        ([[1, 2], [1, 2]], [[1, 1], [0, 0]], "row 1"),
    ],
)
def test_encoder_model_refuses(encoder: TextEncoder, ids: Any, mask: Any, named: str) -> None:
    with pytest.raises(RequestError, match=named) as caught:
        EncoderModel(encoder).check(np.array(ids, np.int64), np.array(mask, np.int64))
    assert caught.value.kind is ErrorKind.WRONG_TENSOR
