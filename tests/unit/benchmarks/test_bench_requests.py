"""Requests of the benchmarks, and the recall of what was found."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from recserve_benchmarks.harness.recall import recall_at_10
from recserve_benchmarks.harness.requests import (
    TEXTS_PER_USER,
    embed_requests,
    infer_requests,
    known_requests,
    payload,
    text_requests,
    unseen_texts,
)
from recserve_client.contract import EmbedRequest, RecommendRequest, Unpacker
from recserve_export.index.recall import normalised_means

TITLES = ["Star Wars", "The Matrix", "Alien", "A Bug's Life", "Blade Runner 2049"]


@given(titles=st.lists(st.from_regex(r"[a-c]{1,2}( [a-c]){0,2}", fullmatch=True), min_size=1, unique=True))
def test_no_unseen_text_is_a_title_or_comes_twice(titles: list[str]) -> None:
    histories = unseen_texts(titles, 20, 3)
    texts = list(itertools.chain(*histories))
    assert {len(history) for history in histories} == {TEXTS_PER_USER}
    assert len(set(texts)) == len(texts) == 20 * TEXTS_PER_USER
    assert not set(texts) & set(titles)


def test_unseen_texts_follow_the_seed() -> None:
    assert unseen_texts(TITLES, 5, 1) == unseen_texts(TITLES, 5, 1) != unseen_texts(TITLES, 5, 2)


def test_a_request_carries_the_history_as_the_contract_wants_it() -> None:
    rows = np.array([[3, 1, 4], [1, 5, 9]])
    blobs = list(infer_requests("recommend", known_requests(rows)))
    unpack = Unpacker(RecommendRequest)
    for line, blob in zip(rows.tolist(), blobs, strict=True):
        request = service_pb2.ModelInferRequest.FromString(blob)
        assert request.model_name == "recommend"
        assert list(request.inputs[0].shape) == [1, 1]
        (raw,) = request.raw_input_contents
        assert int.from_bytes(raw[:4], "little") == len(raw) - 4
        unpacked = unpack(raw[4:])
        assert [behaviour.item for behaviour in unpacked.history] == [f"t{row}" for row in line]
        assert (unpacked.k, unpacked.explain) == (10, True)


def test_text_requests_carry_the_texts() -> None:
    (packed,) = text_requests([["one", "two"]])
    assert [behaviour.text for behaviour in Unpacker(RecommendRequest)(packed).history] == ["one", "two"]


def test_means_are_unit_vectors_along_the_sum() -> None:
    vectors = np.random.default_rng(0).normal(size=(4, 20, 8)).astype(np.float32)
    expected = [user.mean(axis=0) / np.linalg.norm(user.mean(axis=0)) for user in vectors]
    np.testing.assert_allclose(normalised_means(vectors), expected, atol=1e-6)


def test_requests_to_embed_have_as_many_texts_as_asked_for() -> None:
    some = TITLES[:5]
    for size, expected in ((1, [[text] for text in some]), (2, [some[:2], some[2:4], some[4:]]), (9, [some])):
        assert [Unpacker(EmbedRequest)(packed).texts for packed in embed_requests(some, size)] == expected


def test_packed_answers_are_read_from_the_wire() -> None:
    raw = b'{"items": []}'
    response = service_pb2.ModelInferResponse(raw_output_contents=[len(raw).to_bytes(4, "little") + raw])
    assert payload(response.SerializeToString()) == raw


class TestRecall:
    @pytest.fixture
    def vectors(self) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        vectors = np.random.default_rng(5).normal(size=(60, 6)).astype(np.float32)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

    def best(self, vectors: np.ndarray[tuple[int, ...], np.dtype[np.float32]], history: list[int]) -> list[int]:
        order = np.argsort(-(vectors @ vectors[history].sum(axis=0)))
        return [row for row in order.tolist() if row not in history]

    def test_exact_answers_without_the_history_have_all(
        self, vectors: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
    ) -> None:
        rows = np.array([[0, 1, 2], [7, 8, 9]])
        found = [self.best(vectors, list(line))[:10] for line in rows.tolist()]
        assert recall_at_10(vectors, rows, found, np.ones(60, np.bool_)) == 1

    def test_items_beyond_the_tenth_of_the_history_or_twice_do_not_count(
        self, vectors: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
    ) -> None:
        best = self.best(vectors, [0, 1, 2])
        served = [*best[:6], best[0], 0, best[10], best[11]]
        assert recall_at_10(vectors, np.array([[0, 1, 2]]), [served], np.ones(60, np.bool_)) == pytest.approx(0.6)

    def test_an_item_that_ties_with_the_tenth_counts(
        self, vectors: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
    ) -> None:
        best = self.best(vectors, [0, 1, 2])
        twins = np.concatenate([vectors, vectors[best[9]][None]])
        found = [[*best[:9], len(vectors)]]
        assert recall_at_10(twins, np.array([[0, 1, 2]]), found, np.ones(61, np.bool_)) == 1

    def test_only_items_of_the_mask_are_wanted(
        self, vectors: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
    ) -> None:
        best, mask = self.best(vectors, [0, 1, 2]), np.zeros(60, np.bool_)
        mask[[0, *best[20:24]]] = True
        rows = np.array([[0, 1, 2]])
        assert recall_at_10(vectors, rows, [best[20:24]], mask) == 1
        assert recall_at_10(vectors, rows, [best[20:23]], mask) == pytest.approx(0.75)
        assert recall_at_10(vectors, rows, [best[:4]], mask) == 0
